# SPDX-License-Identifier: GPL-2.0-or-later
"""The bearer token: read from a file or created, and compared. It appears in no log and no argument."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pitr.errors import PitrError, UsageError

#: A shorter token can be guessed.
_SHORTEST = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Token:
    """A token that compares in constant time and is never shown by accident."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def allows(self, authorization: str | None) -> bool:
        """Return whether the header "Authorization" holds this token. Every wrong token takes the same time."""
        scheme, _, given = (authorization or "").partition(" ")
        return hmac.compare_digest(given.strip().encode(), self._text) and scheme.lower() == "bearer"


def read_token(path: Path) -> Token:
    """Read the token in the first line of a file. Raises UsageError, also when other users may read the file."""
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
        raise UsageError(f"cannot read the token file {path}: {reason}") from None
    if mode & 0o007:
        raise UsageError(f"all users can read the token file {path}", f"Run: chmod 600 {path}")
    if len(text) < _SHORTEST or _TOKEN.fullmatch(text) is None:
        raise UsageError(
            f"the first line of {path} is not a token: it must have at least {_SHORTEST} letters, digits and -._~+/",
            "Create one: (umask 077; openssl rand -hex 32 > {path})",
        )
    return Token(text)


@contextmanager
def new_token() -> Iterator[tuple[Token, Path]]:
    """Create a token in a file that only this user can read. Remove the file at the end of the block."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    text = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        try:
            # The mode of this folder is 0700.
            folder = tempfile.TemporaryDirectory(
                prefix="pitr-gateway-", dir=runtime if runtime and Path(runtime).is_dir() else None
            )
            path = Path(stack.enter_context(folder)) / "token"
            path.touch(mode=0o600)
            path.write_text(f"{text}\n")
        except OSError as error:
            raise PitrError(f"cannot write the token to a file: {error.strerror}") from error
        yield Token(text), path
