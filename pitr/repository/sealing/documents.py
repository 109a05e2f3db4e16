# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON objects of a sealed repository: what describes VMs and disks to people is in one sealed text of each.

Ids, times, sizes and digests stay in the open, so that a host without an identity can manage the repository.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
from blake3 import blake3

from pitr.errors import FormatError, NoFittingIdentity
from pitr.model import StoredObject
from pitr.repository import canonical, names
from pitr.repository.sealing import age
from pitr.repository.sealing.keys import Unwraps, Wraps

#: Stands for a text that only an identity opens.
HIDDEN = "(sealed)"
_SEALED = "sealed"
#: The texts of small objects that can name a VM or a disk, or quote somebody, by folder.
_TEXTS = {
    names.RUNS: frozenset({"message", "advice", "detail", "name"}),
    names.CHECKS: frozenset({"message"}),
    names.DRILLS: frozenset({"message", "name", "screenshot"}),
    names.MARKS: frozenset({"text"}),
    names.RETIRED: frozenset({"vm_name"}),
}
#: An id beside a name stands for it.
_IDS = {"vm_name": ("vm_id",), "name": ("disk_id", "id")}
#: The objects that a record names, and the keys that tell where they are.
_OBJECTS = ("blob", "index", "index_copy")

Reference = Callable[[str], StoredObject]


def has_texts(name: str) -> bool:
    """Return whether the object with this name has texts to seal."""
    return name.partition("/")[0] in _TEXTS


def sealed_texts(name: str, stored: bytes, recipients: Sequence[Wraps]) -> bytes:
    """Return a small object with its texts sealed; without recipients, the texts are lost. Raises FormatError."""
    document = canonical.parse(stored)
    del document["digest"]
    found = list(_texts(document, _TEXTS[name.partition("/")[0]], ()))
    for path, _ in found:
        _put(document, path, _stand_in(document, path))
    if found and recipients:
        document[_SEALED] = _seal([[list(path), text] for path, text in found], recipients)
    return canonical.encode(document)


def opened_texts(stored: bytes, identities: Sequence[Unwraps]) -> bytes:
    """Return a small object with its texts, as far as the identities open them. Raises FormatError."""
    document = canonical.parse(stored)
    del document["digest"]
    sealed = document.pop(_SEALED, None)
    content = _open(sealed, identities) if sealed is not None else None
    if content is not None:
        try:
            for path, text in content:
                _put(document, path, text)
        except (KeyError, IndexError, TypeError, ValueError):
            raise FormatError("its sealed texts do not fit it") from None
    return canonical.encode(document)


def sealed_record(stored: bytes, recipients: Sequence[Wraps], reference: Reference) -> bytes:
    """Return a record in its sealed form.

    `reference` returns size and digest of a sealed object by its name: they take the place of the plain ones, which
    are sealed too. So everybody can compare the stored objects with the record. Raises FormatError.
    """
    document = canonical.parse(stored)
    del document["digest"]
    private = document.pop("private")
    plain: list[Any] = []
    for owner, key, name in _references(document):
        plain.append(owner[key])
        sealed = reference(name)
        owner[key] = {"size": sealed.size, "digest": sealed.digest}
    content = {"private": private, "objects": plain, "open": _digest(document)}
    document[_SEALED] = _seal(content, recipients)
    return canonical.encode(document)


def opened_record(
    stored: bytes, identities: Sequence[Unwraps], known: Callable[[str, StoredObject], None]
) -> bytes:
    """Return a record in its plain form; in its sealed form if no identity opens it. Raises FormatError.

    `known` gets the name, and the sealed size and digest, of each object that the record names.
    """
    document = canonical.parse(stored)
    if not isinstance(document.get(_SEALED), str) or "private" in document:
        raise FormatError("it is not sealed, although the repository is")
    del document["digest"]
    references = list(_references(document))
    for owner, key, name in references:
        known(name, StoredObject(owner[key]["size"], owner[key]["digest"]))
    content = _open(document.pop(_SEALED), identities)
    if content is None:
        return stored
    try:
        if content["open"] != _digest(document):
            raise FormatError("its open part was changed")
        for (owner, key, _), plain in zip(references, content["objects"], strict=True):
            owner[key] = plain
        document["private"] = content["private"]
    except (KeyError, TypeError, ValueError):
        raise FormatError("its sealed part does not fit it") from None
    return canonical.encode(document)


def _references(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield the place and the object's name of each size and digest in a record. Raises FormatError."""
    try:
        for disk in document["disks"]:
            disk_id, stream_id = disk["disk_id"], disk["stream_id"]
            of_stream = (
                names.blob(disk_id, stream_id),
                names.index(disk_id, stream_id),
                names.index_copy(disk_id, stream_id),
            )
            for key, name in zip(_OBJECTS, of_stream, strict=True):
                if disk.get(key) is not None:
                    yield disk, key, name
            for part in disk.get("parts", ()):
                yield part, "blob", names.blob(part["disk_id"], part["stream_id"])
    except (KeyError, TypeError, AttributeError):
        raise FormatError("it is no record") from None


def _texts(value: Any, keys: frozenset[str], path: tuple[str | int, ...]) -> Iterator[tuple[Any, str]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        if isinstance(entry, dict | list):
            yield from _texts(entry, keys, (*path, key))
        elif key in keys and isinstance(entry, str) and entry:
            yield (*path, key), entry


def _stand_in(document: Any, path: tuple[str | int, ...]) -> str:
    owner = document
    for step in path[:-1]:
        owner = owner[step]
    ids = (owner.get(key) for key in _IDS.get(str(path[-1]), ()))
    return next((each for each in ids if isinstance(each, str)), HIDDEN)


def _put(document: Any, path: Sequence[str | int], text: str) -> None:
    owner = document
    for step in path[:-1]:
        owner = owner[step]
    if not isinstance(text, str) or not isinstance(owner[path[-1]], str):
        raise ValueError
    owner[path[-1]] = text


def _digest(document: dict[str, Any]) -> str:
    return blake3(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _seal(content: Any, recipients: Sequence[Wraps]) -> str:
    return b64encode(age.sealed(orjson.dumps(content), recipients)).decode()


def _open(sealed: Any, identities: Sequence[Unwraps]) -> Any:
    """Return what is sealed; None if no identity opens it. Raises FormatError."""
    try:
        data = b64decode(sealed, validate=True)
    except (ValueError, TypeError):
        raise FormatError("its sealed part is no base64") from None
    try:
        content = orjson.loads(age.opened(data, identities))
    except NoFittingIdentity:
        return None
    except orjson.JSONDecodeError:
        raise FormatError("its sealed part is no JSON") from None
    except FormatError as error:
        raise FormatError(f"its sealed part is damaged: {error.message}") from None
    return content
