# SPDX-License-Identifier: GPL-2.0-or-later
"""Local copies of objects that libraries need as files. Losing them costs time, nothing else."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from pitr.errors import RepositoryError

#: The copies are removed, the longest unused first, until they have at most this size.
LIMIT = 1 << 30


class LocalCopies:
    """Keeps copies in `folder`, which it creates. Several processes may use it at once.

    The tag of a copy is the store's tag of the object: the store tells whether the copy still is its content.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tag_of(self, name: str) -> str | None:
        """Return the tag of the copy; None without a copy."""
        try:
            tag = (self._folder / f"{_key(name)}.tag").read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        path = self.path(name)
        with suppress(OSError):
            os.utime(path)
            return tag
        return None

    def known(self, name: str) -> Path | None:
        """Return the path of the copy, whose content may not be that of the object; None without a copy."""
        path = self.path(name)
        with suppress(OSError):
            os.utime(path)
            return path
        return None

    def path(self, name: str) -> Path:
        """Return the path of the copy."""
        return self._folder / f"{_key(name)}.copy"

    def keep(self, name: str, tag: str, data: bytes) -> Path:
        """Keep a copy and return its path; without a tag it is not known to the store. Raises RepositoryError."""
        path = self.path(name)
        mine = self._folder / f"{uuid.uuid4().hex}.new"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tag_path = self._folder / f"{_key(name)}.tag"
            tag_path.unlink(missing_ok=True)
            for target, content in ((path, data), (tag_path, tag.encode())):
                if content:
                    handle = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    with os.fdopen(handle, "wb") as file:
                        file.write(content)
                    mine.replace(target)
        except OSError as error:
            with suppress(OSError):
                mine.unlink()
            raise RepositoryError(
                f"cannot keep a copy of {name} in {self._folder}: {error.strerror}", "Free some space there."
            ) from error
        return path

    def trim(self, limit: int = LIMIT) -> None:
        """Remove the copies that were not used for the longest time, beyond `limit` bytes in all."""
        found: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for path in self._folder.glob("*.copy"):
                with suppress(OSError):
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
        size = sum(each[1] for each in found)
        for _, length, path in sorted(found):
            if size <= limit:
                break
            with suppress(OSError):
                path.with_suffix(".tag").unlink(missing_ok=True)
                path.unlink()
                size -= length


def _key(name: str) -> str:
    return blake2b(name.encode(), digest_size=16).hexdigest()
