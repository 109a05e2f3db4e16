# SPDX-License-Identifier: GPL-2.0-or-later
"""Command templates with places for ids: `vendor-put {stream_id}`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pitr.errors import UsageError

_PLACE = re.compile(r"\{([^{}]*)\}")
#: Words that only make sense to a shell.
_OF_A_SHELL = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"})
NAMES = ("stream_id", "disk_id", "backup_id", "vm_id")


@dataclass(frozen=True, slots=True)
class CommandTemplate:
    """A command with places for ids. pitr splits it as a shell does but runs no shell, so an id stays one argument."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> CommandTemplate:
        """Parse a template. Raises UsageError when it cannot be split, is empty or has an unknown place."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"cannot split the command {text!r} into words: {error}") from None
        if not words:
            raise UsageError("the command is empty")
        for word in words:
            if word in _OF_A_SHELL:
                raise UsageError(
                    f"pitr runs the command {text!r} without a shell: {word!r} would be an argument",
                    "Name a script, or write sh -c '… \"$0\" …' {stream_id}.",
                )
            for place in _PLACE.findall(word):
                if place not in NAMES:
                    known = ", ".join(f"{{{name}}}" for name in NAMES)
                    raise UsageError(f"the command has the unknown place {{{place}}}", f"Use {known}.")
        return cls(words)

    def filled(self, **ids: str) -> list[str]:
        """Return the words of the command with these ids in their places."""
        return [_PLACE.sub(lambda match: ids[match.group(1)], word) for word in self.words]
