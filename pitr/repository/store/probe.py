# SPDX-License-Identifier: GPL-2.0-or-later
"""Try out whether a store does what a repository relies on, and how quickly it answers.

All objects of the trial are below one random name, and are gone after it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pitr.errors import RepositoryError
from pitr.repository.store.base import ObjectExists, ObjectMissing, Store

#: The folder of the trial's objects.
FOLDER = "probe"
_WRITERS = 8
_LARGE = 12 << 20
_SMALL_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """One property of a store. It is not `ok` if a repository cannot lie on the store; `what` says it in words."""

    name: str
    ok: bool
    what: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of one small request of each kind (medians), and bytes a second for one large object.

    `head_s`: for the size of an object. `read_s`: for 1,000 bytes, `list_s`: for a list of a few names.
    """

    head_s: float
    read_s: float
    write_s: float
    list_s: float
    upload: float
    download: float


class UnsafeStore(RepositoryError):
    """The store does not do what a repository relies on."""

    exit_code = 6


def check(store: Store) -> Speed:
    """Raise UnsafeStore for the first property that the store lacks, and the errors of the store."""
    with _Trials(store) as trials:
        for trial in trials.all():
            if not trial.ok:
                raise UnsafeStore(
                    f"a repository cannot lie on this store: {trial.what}",
                    "Use another server, or a bucket without versions: some servers ignore the condition only there. "
                    "docs/object-storage.md names those that were tried.",
                )
        return trials.speed()


class _Trials:
    """The trials with one store. The end of the block removes their objects."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = f"{FOLDER}/{uuid.uuid4().hex}"
        self._names: set[str] = set()

    def __enter__(self) -> _Trials:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            # What cannot be removed now does no harm: nothing reads the folder.
            with suppress(RepositoryError):
                self._store.delete(name)

    def all(self) -> Iterator[Trial]:
        """Yield the results one by one: after a bad one, the next trial may fail for the same reason."""
        yield self._created_once()
        yield self._one_writer_wins()
        yield self._listed()
        yield self._ranges()
        yield self._large()
        yield self._dropped()

    def _name(self, part: str) -> str:
        name = f"{self._folder}/{part}"
        self._names.add(name)
        return name

    def _created_once(self) -> Trial:
        name = self._name("once")
        self._store.create(name, b"first")
        try:
            self._store.create(name, b"second")
        except ObjectExists:
            kept = self._store.read(name, limit=100) == b"first"
            return Trial("create", kept, "it overwrites an object although it reports an error")
        return Trial("create", False, "it overwrites existing objects silently (it ignores If-None-Match)")

    def _one_writer_wins(self) -> Trial:
        name = self._name("race")
        won: list[bytes] = []
        errors: list[RepositoryError] = []
        barrier = threading.Barrier(_WRITERS)

        def create(content: bytes) -> None:
            barrier.wait()
            try:
                self._store.create(name, content)
                won.append(content)
            except ObjectExists:
                pass
            except RepositoryError as error:
                errors.append(error)

        threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(_WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        ok = len(won) == 1 and self._store.read(name, limit=100) == won[0]
        return Trial(
            "race",
            ok,
            f"{len(won)} of {_WRITERS} writers of one name at once succeeded: they overwrite silently",
        )

    def _listed(self) -> Trial:
        name = self._name("list/one")
        folder = name.rpartition("/")[0]
        self._store.create(name, b"")
        after_write = list(self._store.list(folder))
        self._store.delete(name)
        after_delete = list(self._store.list(folder))
        ok = after_write == [name] and after_delete == []
        return Trial("list", ok, "its lists do not show at once what was written or deleted")

    def _ranges(self) -> Trial:
        name = self._name("range")
        content = os.urandom(100_000)
        self._store.create(name, content)
        with self._store.open(name) as file:
            parts = [(0, 1), (77, 4096), (99_990, 10)]
            ok = file.size == len(content) and all(
                file.read_at(start, length) == content[start : start + length] for start, length in parts
            )
        return Trial("ranges", ok, "it does not give ranges of an object")

    def _large(self) -> Trial:
        name = self._name("large")
        content = os.urandom(_LARGE)
        with self._store.new(name) as new:
            new.write(content)
            new.commit()
        with self._store.open(name) as file:
            ok = file.read_at(0, len(content)) == content
        return Trial("large", ok, "a large object does not come back as it was written")

    def _dropped(self) -> Trial:
        name = self._name("dropped")
        with self._store.new(name) as new:
            new.write(os.urandom(_LARGE))
        try:
            self._store.size(name)
        except ObjectMissing:
            return Trial("dropped", True, "")
        return Trial("dropped", False, "an upload that was given up became an object")

    def speed(self) -> Speed:
        """Measure with the objects of the trials."""
        names = [self._name(f"small/{number}") for number in range(_SMALL_REQUESTS)]
        large, small = self._name("large"), names[0]
        writes = [_seconds(partial(self._store.create, name, b"x" * 1000)) for name in names]
        heads = [_seconds(lambda: self._store.size(small)) for _ in names]
        reads = [_seconds(lambda: self._store.read(small, limit=1000)) for _ in names]
        lists = [_seconds(lambda: list(self._store.list(self._folder))) for _ in names]
        content = os.urandom(_LARGE)

        def upload() -> None:
            with self._store.new(self._name("speed")) as new:
                new.write(content)
                new.commit()

        def download() -> None:
            with self._store.open(large) as file:
                file.read_at(0, _LARGE)

        return Speed(
            _median(heads),
            _median(reads),
            _median(writes),
            _median(lists),
            _LARGE / _seconds(upload),
            _LARGE / _seconds(download),
        )


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return max(time.monotonic() - started, 1e-6)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
