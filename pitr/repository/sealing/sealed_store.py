# SPDX-License-Identifier: GPL-2.0-or-later
"""The store of a sealed repository: seals what is written, and opens what is read, so that nothing above differs.

Blobs, indexes and configurations are age files, under their names with ".age". Without a fitting identity, an object
reads as its sealed bytes, and a record has the sizes and digests of these: so a check of stored digests works, too.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from pitr.errors import FormatError, NoFittingIdentity, RepositoryError
from pitr.model import StoredObject
from pitr.repository import names
from pitr.repository.sealing import documents
from pitr.repository.sealing.age import (
    AgeReader,
    AgeWriter,
    content_size,
    opened,
    sealed,
)
from pitr.repository.sealing.header import AgeError
from pitr.repository.sealing.keyring import Keyring
from pitr.repository.store.base import (
    ListedObject,
    NewObject,
    Store,
    StoredFile,
    check_name,
    gap_of,
    may_be_stored,
)
from pitr.repository.store.each_at_once import EachAtOnce
from pitr.repository.store.local_copies import LocalCopies
from pitr.repository.store.scratch import Scratch
from pitr.system.closing import Closes

SUFFIX = ".age"
#: The folders whose objects are sealed as a whole.
_CONTENT = frozenset({names.BLOBS, names.INDEXES})
_WITH_SUFFIX = _CONTENT | {names.CONFIGURATIONS}
_CHUNK = 1 << 22
_KEPT_CONFIGURATIONS = 1 << 26


class BrokenSeal(RepositoryError):
    """A sealed object is damaged."""

    exit_code = 3

    def __init__(self, name: str, error: FormatError) -> None:
        super().__init__(f"{name} is damaged: {error.message}", "Run 'pitr verify' to list all damage.")


class SealedStore:
    """A store above `inner`, which it closes. Raises RepositoryError for recipients that this host does not trust."""

    hides_names = True

    def __init__(self, inner: Store, keyring: Keyring) -> None:
        self._inner = inner
        self._keyring = keyring
        self._scratch = Scratch(keyring.folder / "tmp")
        self._configurations = LocalCopies(keyring.folder / "configurations")
        #: Size and digest of sealed objects, by name, as far as this process has seen them.
        self._sealed: dict[str, StoredObject] = {}
        self._created: dict[str, bytes] = {}
        self._local: dict[str, Path] = {}
        #: Give and take objects in their sealed form, for a copy to a repository with the same keys.
        self.as_stored = False
        #: `size` is of the content, for the comparison with a source whose content is in the open, or sealed otherwise.
        self.plain_sizes = False

    @property
    def inner(self) -> Store:
        """The store that holds the sealed objects, under their names."""
        return self._inner

    @property
    def reads_at_once(self) -> int:
        """How many reads of small objects should be under way at once."""
        return int(getattr(self._inner, "reads_at_once", 1))

    def close(self) -> None:
        self._scratch.close()
        self._inner.close()

    def new(self, name: str) -> NewObject:
        return self._sealing(name, self._inner.new(stored_name(check_name(name))))

    def replacing(self, name: str) -> NewObject:
        return self._sealing(name, self._inner.replacing(stored_name(check_name(name))))

    def batch(self) -> EachAtOnce:
        return EachAtOnce(self)

    def _sealing(self, name: str, new: NewObject) -> NewObject:
        if self.as_stored or _folder(name) not in _CONTENT:
            return new
        return _NewSealed(self, name, new, self._keyring)

    def note_sealed(self, name: str, stored: StoredObject) -> None:
        """Note size and digest of a sealed object."""
        self._sealed[name] = stored

    def create(self, name: str, data: bytes) -> None:
        check_name(name)
        folder = _folder(name)
        try:
            if self.as_stored:
                pass
            elif folder in _CONTENT:
                data = sealed(data, self._keyring.recipients())
                self.note_sealed(name, _described(data))
            elif folder == names.BACKUPS:
                data = documents.sealed_record(data, self._keyring.recipients(), self._reference)
            elif documents.has_texts(name):
                data = documents.sealed_texts(name, data, self._keyring.trusted())
        except FormatError as error:
            raise RepositoryError(f"cannot seal {name}: {error.message}") from error
        self._created[name] = data
        self._inner.create(stored_name(name), data)
        # Only an object whose creation failed is compared.
        del self._created[name]

    def may_hold(self, name: str) -> bool:
        """Return whether the object, whose creation failed, may be stored all the same."""
        data = self._created.get(name)
        return data is not None and may_be_stored(self._inner, stored_name(name), data)

    def sealed_configuration(self, plain: bytes) -> bytes:
        """Return a configuration sealed: the same bytes as the last time, if this host remembers them."""
        recipients = self._keyring.recipients()
        key = blake3(plain).hexdigest()
        tag = " ".join(str(recipient) for recipient in recipients)
        if self._configurations.tag_of(key) == tag:
            return self._configurations.path(key).read_bytes()
        data = sealed(plain, recipients)
        self._configurations.keep(key, tag, data)
        self._configurations.trim(_KEPT_CONFIGURATIONS)
        return data

    def opened_configuration(self, stored: bytes) -> bytes:
        """Return a configuration. Raises NoFittingIdentity, FormatError."""
        try:
            return opened(stored, self._keyring.identities)
        except NoFittingIdentity:
            raise self._keyring.refusal() from None

    def open(self, name: str) -> StoredFile:
        file = self._inner.open(stored_name(name))
        if _folder(name) not in _CONTENT or not self._keyring.opens:
            return file
        try:
            return _OpenedFile(name, file, self._keyring)
        except NoFittingIdentity:
            return _SealedFile(file)
        except AgeError as error:
            file.close()
            raise BrokenSeal(name, error) from None
        except BaseException:
            file.close()
            raise

    def open_stored(self, name: str) -> StoredFile:
        """Open an object with its stored bytes."""
        return self._inner.open(stored_name(name))

    def read(self, name: str, *, limit: int) -> bytes:
        folder = _folder(name)
        if folder in _CONTENT:
            with self.open(name) as file:
                if file.size > limit:
                    raise RepositoryError(f"{name} has {file.size} bytes; pitr accepts at most {limit} bytes")
                return file.read_at(0, file.size)
        stored = self._inner.read(stored_name(name), limit=limit)
        if self.as_stored and folder != names.BACKUPS:
            return stored
        try:
            if folder == names.BACKUPS:
                return documents.opened_record(stored, self._keyring.identities, self.note_sealed)
            if documents.has_texts(name):
                return documents.opened_texts(stored, self._keyring.identities)
        except FormatError as error:
            if folder == names.BACKUPS:
                raise BrokenSeal(name, error) from None
            # The reader of a small object knows what a damaged one means.
            return b""
        return stored

    def size(self, name: str) -> int:
        if not self.plain_sizes or _folder(name) not in _CONTENT:
            return self._inner.size(stored_name(name))
        with self._inner.open(stored_name(name)) as file:
            try:
                return content_size(file.read_at, file.size)
            except AgeError:
                return -1

    def written(self, name: str) -> datetime:
        return self._inner.written(stored_name(name))

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        if _folder(prefix) not in _WITH_SUFFIX:
            yield from self._inner.list(prefix, besides=besides)
            return
        for name in self._inner.list(prefix):
            shown = _shown_name(name)
            if shown is not None and shown not in besides:
                yield shown

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        for each in self._inner.listed(prefix):
            shown = _shown_name(each.name)
            if shown is not None:
                yield replace(each, name=shown)

    def folders(self, prefix: str) -> Iterator[str]:
        return self._inner.folders(prefix)

    def counts(self, prefix: str) -> dict[str, int]:
        return self._inner.counts(prefix)

    def delete(self, name: str) -> None:
        self._inner.delete(stored_name(name))

    def local_file(self, name: str) -> Path:
        """Return a local file with the opened object, until the store is closed. Raises NoFittingIdentity."""
        if _folder(name) not in _CONTENT:
            return self._inner.local_file(stored_name(name))
        known = self._local.get(name)
        if known is not None:
            return known
        with self._inner.open(stored_name(name)) as stored:
            try:
                file = _OpenedFile(name, stored, self._keyring)
            except NoFittingIdentity:
                raise self._keyring.refusal() from None
            except AgeError as error:
                raise BrokenSeal(name, error) from None
            path = self.scratch_file()
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as local:
                    for offset in range(0, file.size, _CHUNK):
                        local.write(file.read_at(offset, _CHUNK))
            except OSError as error:
                raise RepositoryError(f"cannot write temporary files: {error.strerror}") from error
        self._local[name] = path
        return path

    def scratch_file(self) -> Path:
        """Return a path on this host, outside of the repository: a temporary file is not sealed."""
        try:
            return self._scratch.file()
        except OSError as error:
            raise RepositoryError(f"cannot write temporary files: {error.strerror}") from error

    def drop_scratch(self, path: Path) -> None:
        self._inner.drop_scratch(path)

    def _reference(self, name: str) -> StoredObject:
        """Return size and digest of a sealed object; reads it if this process has not seen them."""
        if name not in self._sealed:
            with self._inner.open(stored_name(name)) as file:
                digest = blake3()
                for offset in range(0, file.size, _CHUNK):
                    digest.update(file.read_at(offset, _CHUNK))
                self.note_sealed(name, StoredObject(file.size, digest.hexdigest()))
        return self._sealed[name]


class _NewSealed:
    """An object while it is written and sealed."""

    def __init__(self, store: SealedStore, name: str, new: NewObject, keyring: Keyring) -> None:
        self._store = store
        self._name = name
        self._new = new
        self._digest = blake3()
        self._size = 0
        try:
            self._writer = AgeWriter(self._put, keyring.recipients())
        except BaseException as error:
            new.__exit__(type(error), error, error.__traceback__)
            raise

    def write(self, data: bytes | memoryview) -> None:
        self._writer.write(data)

    def commit(self) -> None:
        self._writer.finish()
        self._store.note_sealed(self._name, StoredObject(self._size, self._digest.hexdigest()))
        self._new.commit()

    def _put(self, data: bytes | memoryview) -> None:
        self._new.write(data)
        self._digest.update(data)
        self._size += len(data)

    def __enter__(self) -> Self:
        self._new.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._new.__exit__(kind, error, trace)


class _SealedFile(Closes):
    """A sealed object that no identity of this process opens, although some open others."""

    is_sealed = True

    def __init__(self, file: StoredFile) -> None:
        self._file = file
        self.size = file.size
        self.read_at = file.read_at

    def close(self) -> None:
        self._file.close()


class _OpenedFile(Closes):
    """A sealed object opened for reading. Raises AgeError, NoFittingIdentity at first; BrokenSeal later."""

    def __init__(self, name: str, file: StoredFile, keyring: Keyring) -> None:
        self._name = name
        self._file = file
        self.gap = gap_of(file)
        self._reader = AgeReader(file.read_at, file.size, keyring.identities)

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            return self._reader.read_at(offset, length)
        except AgeError as error:
            raise BrokenSeal(self._name, error) from None

    def close(self) -> None:
        self._file.close()


def _folder(name: str) -> str:
    return name.partition("/")[0]


def stored_name(name: str) -> str:
    return f"{name}{SUFFIX}" if _folder(name) in _WITH_SUFFIX and "/" in name else name


def _shown_name(name: str) -> str | None:
    """Return the name without its suffix; None for an object that is not sealed and should be."""
    if _folder(name) not in _WITH_SUFFIX:
        return name
    return name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else None


def _described(data: bytes) -> StoredObject:
    return StoredObject(len(data), blake3(data).hexdigest())
