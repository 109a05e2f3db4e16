# SPDX-License-Identifier: GPL-2.0-or-later
"""A bucket in memory with a clock that tests set, and the stores of several hosts on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pitr.repository import Repository
from pitr.repository.marker import Marker
from pitr.repository.store import ListedObject, ObjectExists, ObjectMissing
from pitr.repository.store.base import Batch
from pitr.system.closing import Closes

GRACE = timedelta(days=3)


class Crash(BaseException):
    """The host stops for good at this request."""


class Bucket:
    """Objects with the times at which they were written, by the clock `now`, which only goes forward.

    `on_request` is called before each request with its kind and name; it may raise Crash, or let time pass.
    `requests` counts them by kind.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        #: Lists lack what happened in the last second.
        self.late_lists = False
        self._changes: list[tuple[datetime, str, tuple[bytes, datetime] | None]] = []
        self.on_request: Callable[[str, str], None] = lambda kind, name: None
        self.requests: Counter[str] = Counter()

    def put(self, name: str, data: bytes) -> None:
        self._changes.append((self.now, name, None))
        # Like HTTP, the clock has whole seconds.
        self.objects[name] = (data, self.now.replace(microsecond=0))

    def remove(self, name: str) -> None:
        self._changes.append((self.now, name, self.objects.pop(name, None)))

    def listed(self) -> dict[str, tuple[bytes, datetime]]:
        """What a list shows."""
        if not self.late_lists:
            return self.objects
        shown = dict(self.objects)
        self._changes = [each for each in self._changes if self.now - each[0] < timedelta(seconds=1)]
        for _, name, before in reversed(self._changes):
            if before is None:
                shown.pop(name, None)
            else:
                shown[name] = before
        return shown

    def names(self, *folders: str) -> list[str]:
        return sorted(name for name in self.objects if name.partition("/")[0] in folders)

    def host(self, state: Path, grace: timedelta = GRACE) -> Repository:
        """Open the repository on a host whose files are in `state`."""
        (state / "locks").mkdir(parents=True, exist_ok=True)
        store = HostStore(self, state)
        return Repository(Path("/nowhere"), store, Marker("0" * 36, grace, "0" * 36), state)


class HostStore(Closes):
    """The store of one host on a bucket."""

    def __init__(self, bucket: Bucket, state: Path) -> None:
        self._bucket = bucket
        self._state = state
        self._files = 0

    def _ask(self, kind: str, name: str) -> None:
        self._bucket.requests[kind] += 1
        self._bucket.on_request(kind, name)

    def new(self, name: str) -> _New:
        return _New(self, name)

    def replacing(self, name: str) -> _New:
        raise NotImplementedError

    def batch(self) -> Batch:
        raise NotImplementedError

    def create(self, name: str, data: bytes) -> None:
        self._ask("create", name)
        if name in self._bucket.objects:
            raise ObjectExists(name)
        self._bucket.put(name, bytes(data))

    def open(self, name: str) -> _File:
        return _File(self.read(name, limit=1 << 40))

    def read(self, name: str, *, limit: int) -> bytes:
        self._ask("read", name)
        return self._found(name)[0]

    def size(self, name: str) -> int:
        self._ask("size", name)
        return len(self._found(name)[0])

    def written(self, name: str) -> datetime:
        self._ask("size", name)
        return self._found(name)[1]

    def _found(self, name: str) -> tuple[bytes, datetime]:
        try:
            return self._bucket.objects[name]
        except KeyError:
            raise ObjectMissing(name) from None

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        return (each.name for each in self.listed(prefix) if each.name not in besides)

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        self._ask("list", prefix)
        return iter(
            [
                ListedObject(name, len(data), written)
                for name, (data, written) in sorted(self._bucket.listed().items())
                if name.startswith(f"{prefix}/")
            ]
        )

    def folders(self, prefix: str) -> Iterator[str]:
        names = [each.name.removeprefix(f"{prefix}/") for each in self.listed(prefix)]
        return iter(sorted({name.partition("/")[0] for name in names if "/" in name}))

    def counts(self, prefix: str) -> dict[str, int]:
        names = [each.name.removeprefix(f"{prefix}/") for each in self.listed(prefix)]
        return Counter(name.partition("/")[0] for name in names if "/" in name)

    def delete(self, name: str) -> None:
        self._ask("delete", name)
        self._bucket.remove(name)

    def local_file(self, name: str) -> Path:
        path = self.scratch_file()
        path.write_bytes(self.read(name, limit=1 << 40))
        return path

    def scratch_file(self) -> Path:
        self._files += 1
        return self._state / f"scratch-{self._files}-{id(self)}"

    def drop_scratch(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def close(self) -> None:
        for path in self._state.glob(f"scratch-*-{id(self)}"):
            path.unlink()


class _New(Closes):
    def __init__(self, store: HostStore, name: str) -> None:
        self._store = store
        self._name = name
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data

    def commit(self) -> None:
        self._store.create(self._name, bytes(self._data))

    def close(self) -> None:
        """Drop what was not committed."""


class _File(Closes):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Hold nothing."""
