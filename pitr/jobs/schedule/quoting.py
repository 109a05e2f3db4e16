# SPDX-License-Identifier: GPL-2.0-or-later
"""Write texts into units and crontabs so that systemd, cron and the shell read the same texts."""

from __future__ import annotations

import re
import shlex

from pitr.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=-]+")
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.]")


def checked(what: str, text: str) -> str:
    """Return `text` if units and crontabs can hold it. Raises UsageError for line breaks and control characters."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageError(f"{what} {text!r} has a line break or a control character", "Use another name.")
    return text


def word(text: str) -> str:
    """Return one word of a unit's setting, such as a path of ReadWritePaths=."""
    text = text.replace("%", "%%")
    if _PLAIN.fullmatch(text.replace("%", "")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def command_word(text: str) -> str:
    """Return one word of ExecStart=, where systemd also replaces variables."""
    return word(text.replace("$", "$$"))


def value(text: str) -> str:
    """Return a setting that systemd takes to the end of the line, such as Description=."""
    return text.replace("%", "%%")


def unit_part(text: str) -> str:
    r"""Return a text as a part of a unit's name, as `systemd-escape` does it: "my vms" is "my\x20vms"."""
    return "".join(
        letter if letter == "-" or _UNIT_NAME.fullmatch(letter) else _hexadecimal(letter) for letter in text
    )


def _hexadecimal(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode())


def crontab_word(text: str) -> str:
    """Return one word of a crontab's command. cron turns a bare % into a line break."""
    return shlex.quote(text).replace("%", r"\%")
