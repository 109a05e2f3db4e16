# SPDX-License-Identifier: GPL-2.0-or-later
"""The identities of this process: read from files or from a command when a sealed repository is opened.

No identity is ever an argument of a program, nor in a message. A process that holds one writes no core dump.
"""

from __future__ import annotations

import os
import resource
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pitr.errors import FormatError, PitrError, UsageError
from pitr.system.process import run

if TYPE_CHECKING:
    from pitr.repository.sealing.keys import Identity

VARIABLE = "PITR_IDENTITY_FILE"
PASSPHRASE_VARIABLE = "PITR_PASSPHRASE_FILE"  # noqa: S105 - a name
#: Stands for the identities that a passphrase protects, as a recipient and as an identity.
PASSPHRASE = "passphrase"  # noqa: S105 - a word
#: How an encrypted identity file begins: as it is, or as text.
ENCRYPTED = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
_COMMAND_TIMEOUT_S = 60.0
_MAX_FILE = 1 << 16
#: In characters, of a new passphrase.
_SHORTEST = 10
_PREFIX = "AGE-SECRET-KEY-"
_PLUGIN = b"AGE-PLUGIN-"
_DUMP_FILTER = Path("/proc/self/coredump_filter")


@dataclass(frozen=True, slots=True)
class KeySettings:
    """What options and the configuration say about keys.

    `recipients` are those of the configuration. `trust` accepts the recipients that the repository names. `ask` gets a
    passphrase from the terminal; None without one. `passphrase_file` and `passphrase_command` come first.
    """

    identity_files: tuple[Path, ...] = ()
    identity_command: str | None = None
    recipients: tuple[str, ...] = ()
    trust: bool = False
    passphrase_command: str | None = None
    passphrase_file: Path | None = None
    ask: Callable[[str], str] | None = None

    def with_environment(self, environ: Mapping[str, str]) -> KeySettings:
        """Return the settings with the files of the variables, unless files were named."""
        named, protecting = environ.get(VARIABLE), environ.get(PASSPHRASE_VARIABLE)
        files = (Path(named),) if named and not self.identity_files else self.identity_files
        return replace(
            self,
            identity_files=files,
            passphrase_file=Path(protecting) if protecting else self.passphrase_file,
        )

    @property
    def names_identity(self) -> bool:
        """Whether there is any identity to try."""
        return bool(self.identity_files or self.identity_command) or self.wants_stored

    @property
    def wants_stored(self) -> bool:
        """Whether to open the identities in the repository that a passphrase protects."""
        if self.identity_files:
            return Path(PASSPHRASE) in self.identity_files
        return not self.identity_command and bool(self.passphrase_file or self.passphrase_command)

    @property
    def secret_files(self) -> list[Path]:
        """The files with identities and passphrases."""
        named = [path for path in self.identity_files if path != Path(PASSPHRASE)]
        return [*named, *([self.passphrase_file] if self.passphrase_file is not None else [])]

    def passphrase(self, question: str) -> str:
        """Return the passphrase of the user. Raises UsageError, which does not quote it."""
        if self.passphrase_file is not None:
            text = _of_file(self.passphrase_file, "passphrase file").decode(errors="replace")
        elif self.passphrase_command is not None:
            text = _printed(self.passphrase_command, "passphrase_command", "passphrase")
        elif self.ask is not None:
            text = self.ask(question)
        else:
            raise UsageError(
                "a passphrase is needed, and there is no terminal to type it",
                f"Set {PASSPHRASE_VARIABLE}, or passphrase_command under [encryption].",
            )
        text = text.partition("\n")[0].rstrip("\r")
        if not text:
            raise UsageError("the passphrase is empty", "Give one of several words.")
        return text

    def new_passphrase(self) -> str:
        """Return a new passphrase, which was typed twice. Raises UsageError."""
        given = self.passphrase("New passphrase: ")
        if len(given) < _SHORTEST:
            raise UsageError(
                f"the passphrase has fewer than {_SHORTEST} characters, and everybody who reads the repository can "
                "try to guess it",
                "Choose several words at random.",
            )
        is_typed = self.passphrase_file is None and self.passphrase_command is None
        if is_typed and self.ask is not None and self.ask("The same again: ") != given:
            raise UsageError("the two passphrases differ", "Run the command again.")
        return given

    def identities(self) -> list[Identity]:
        """Read the identities. Raises UsageError, which quotes none of them."""
        if not self.names_identity:
            return []
        keep_out_of_core_dumps()
        read: list[Identity] = []
        for path in self.identity_files:
            if path != Path(PASSPHRASE):
                data = _of_file(path, "identity file")
                read += self._of(data, f"the identity file {path}", plugins=True)
        if not self.identity_files and self.identity_command is not None:
            printed = _printed(self.identity_command, "identity_command", "identity")
            read += self._of(printed.encode(), "the output of identity_command")
        return read

    def plugin_files(self) -> list[Path]:
        """Return the files with identities of plugins, which the program age opens. Raises UsageError."""
        files = [path for path in self.identity_files if path != Path(PASSPHRASE)]
        return [
            path
            for path in files
            if any(line.strip().startswith(_PLUGIN) for line in _of_file(path, "identity file").splitlines())
        ]

    def _of(self, data: bytes, where: str, *, plugins: bool = False) -> list[Identity]:
        if data.startswith(ENCRYPTED):
            from pitr.repository.sealing import passphrases  # noqa: PLC0415 - the extra may be missing

            return passphrases.of_file(data, where, self)
        try:
            return parsed_identities(data.decode(), where, plugins=plugins)
        except UnicodeDecodeError:
            raise UsageError(f"{where} is not text") from None


_settings = KeySettings()


def use(settings: KeySettings) -> None:
    """Use these settings for the repositories that this process opens from now on."""
    global _settings  # noqa: PLW0603 - one command line in a process
    _settings = settings


def settings() -> KeySettings:
    """Return the settings of this process."""
    return _settings.with_environment(os.environ)


def _of_file(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise UsageError(f"the {what} {path} is too large")
    return data


def _printed(command: str, setting: str, what: str) -> str:
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        return run(words, timeout_s=_COMMAND_TIMEOUT_S)
    except (ValueError, OSError, PitrError) as error:
        # The output of a failed command is in the message, and may hold the identity.
        reason = error.message.partition(": ")[0] if isinstance(error, PitrError) else str(error)
        raise UsageError(
            f"{setting} under [encryption] printed no {what}: {reason}", "Run the command by hand."
        ) from None


def parsed_identities(text: str, where: str, *, plugins: bool = False) -> list[Identity]:
    """Return the X25519 identities in a text, which may also have some of `plugins`.

    Raises UsageError, which quotes none of them.
    """
    from pitr.repository.sealing.keys import Identity  # noqa: PLC0415 - the extra may be missing

    read: list[Identity] = []
    of_plugins = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if plugins and stripped.encode().startswith(_PLUGIN):
            of_plugins = True
            continue
        try:
            if not stripped.startswith(_PREFIX):
                raise FormatError("pitr reads X25519 identities, AGE-SECRET-KEY-1…")
            read.append(Identity.parse(stripped))
        except FormatError as error:
            raise UsageError(f"line {number} of {where} is no identity: {error.message}") from None
    if not read and not of_plugins:
        raise UsageError(f"{where} holds no identity", "'age-keygen -o FILE' makes one.")
    return read


def keep_out_of_core_dumps() -> None:
    """Let this process write no core dump from now on."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A program that receives core dumps gets them for any limit; then they have no memory.
    with suppress(OSError):
        _DUMP_FILTER.write_text("0")
