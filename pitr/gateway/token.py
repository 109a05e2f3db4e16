# SPDX-License-Identifier: GPL-2.0-or-later
"""The bearer token: read from a file or made up, and compared; it is in no log and no argument."""

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

#: Shorter ones can be guessed.
_SHORTEST = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Token:
    """A token that can be compared, and not be shown by accident."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def allows(self, authorization: str | None) -> bool:
        """Whether the header "Authorization" holds this token. It takes as long for each wrong one."""
        scheme, _, given = (authorization or "").partition(" ")
        return hmac.compare_digest(given.strip().encode(), self._text) and scheme.lower() == "bearer"


def read_token(path: Path) -> Token:
    """Read the token that is the first line of a file. Raises UsageError, also where others may read the file."""
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise UsageError(f"the token file {path} cannot be read: {reason}") from None
    if mode & 0o007:
        raise UsageError(f"everybody can read the token file {path}", f"Run: chmod 600 {path}")
    if len(text) < _SHORTEST or _TOKEN.fullmatch(text) is None:
        raise UsageError(
            f"the first line of {path} is no token of at least {_SHORTEST} letters, digits and -._~+/",
            f"Make one: (umask 077; openssl rand -hex 32 > {path})",
        )
    return Token(text)


@contextmanager
def new_token() -> Iterator[tuple[Token, Path]]:
    """Make up a token, in a file that only this user can read and that goes with the block."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    text = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        try:
            # Its folder is 0700.
            folder = tempfile.TemporaryDirectory(
                prefix="pitr-gateway-", dir=runtime if runtime and Path(runtime).is_dir() else None
            )
            path = Path(stack.enter_context(folder)) / "token"
            path.touch(mode=0o600)
            path.write_text(f"{text}\n")
        except OSError as error:
            raise PitrError(f"the token cannot be kept in a file: {error.strerror}") from error
        yield Token(text), path
