# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reader of repositories, written from docs/format.md alone: it imports nothing of pitr.

It reads small repositories, keeps everything in memory, and is as strict as the page: what the page forbids, raises
`Broken`.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import blake3
import zstandard

Document = dict[str, Any]
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_STREAM_KEYS = ("stream_id", "backup_id", "disk_id", "kind", "size", "parent_stream_id", "frame_size")
_TEXT_LIMIT = 1 << 21


class Broken(Exception):
    """The repository contradicts docs/format.md."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


def digest_of(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


@dataclass(frozen=True)
class Row:
    """A row of an extent index."""

    start: int
    length: int
    part: int | None
    blob_offset: int
    blob_length: int
    frame_length: int
    skip: int
    digest: bytes

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def origin(self) -> int:
        """The place of the whole frame on the disk."""
        return self.start - self.skip

    @property
    def frame(self) -> tuple[int, int, int, int, bytes]:
        """Place and length in the blob, length and place on the disk of the whole frame, and its digest."""
        return self.blob_offset, self.blob_length, self.frame_length, self.origin, self.digest


@dataclass
class Folder:
    """A repository in a folder. Opening it reads and checks its marker and all its records."""

    path: Path
    records: dict[str, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        marker = document((self.path / "repository.json").read_bytes())
        demand(marker["format"] == 2, f"format {marker['format']}")
        demand(marker["required_features"] == [], "unknown features")
        demand(marker["lock"] is None and marker["encryption"] is None, "a lock or encryption")
        for name in self.names("backups"):
            record = document((self.path / name).read_bytes())
            check_record(record, name)
            demand(record["backup_id"] not in self.records, f"two records of {record['backup_id']}")
            self.records[record["backup_id"]] = record
        streams = [entry["stream_id"] for record in self.records.values() for entry in record["disks"]]
        demand(len(streams) == len(set(streams)), "a stream is in two records")

    def names(self, folder: str) -> list[str]:
        """The names of the objects below a folder."""
        found = []
        for file in sorted((self.path / folder).rglob("*")):
            demand(not file.is_symlink(), f"{file} is a link")
            parts = file.relative_to(self.path).parts
            if file.is_file() and all(_PART.fullmatch(part) for part in parts):
                found.append("/".join(parts))
        return found

    # -- a disk at a point

    def disks(self, backup_id: str) -> dict[str, bytes]:
        """All disks of a point."""
        return {
            entry["disk_id"]: self.disk(backup_id, entry["disk_id"])
            for entry in self.records[backup_id]["disks"]
        }

    def disk(self, backup_id: str, disk_id: str) -> bytes:
        """A disk at a point, from its chain."""
        chain = self.chain(backup_id, disk_id)
        content = bytearray()
        # The oldest stream first: a newer one writes over it. A disk that shrinks loses what is behind its end.
        for record, entry in reversed(chain):
            size = entry["size"]
            del content[size:]
            content.extend(bytes(size - len(content)))
            for row, data in self.pieces(record, entry):
                content[row.start : row.end] = bytes(row.length) if data is None else data
        return bytes(content)

    def chain(self, backup_id: str, disk_id: str) -> list[tuple[Document, Document]]:
        """The stream of a disk and all streams that it is based on, with their records."""
        record = self.records[backup_id]
        links = [(record, entry_of(record, disk_id))]
        while (parent_stream := links[-1][1]["parent_stream_id"]) is not None:
            child = links[-1][0]
            parent = self.records.get(child["parent_id"])
            stands_in = parent is None
            if parent is None:
                parent = next(
                    (each for each in self.records.values() if each.get("stands_for") == child["parent_id"]),
                    None,
                )
            demand(parent is not None, f"the parent of {child['backup_id']} is missing")
            assert parent is not None
            entry = entry_of(parent, disk_id)
            demand(stands_in or entry["stream_id"] == parent_stream, f"{parent_stream} is not in the parent")
            demand(all(entry is not other for _, other in links), "a chain without an end")
            links.append((parent, entry))
        return links

    def pieces(self, record: Document, entry: Document) -> Iterator[tuple[Row, bytes | None]]:
        """Each range of a stream with its data, or None for zeroes."""
        rows = self.index(record, entry)
        blobs = dict(self.part_blobs(entry))
        frames: dict[tuple[int, int], bytes] = {}
        for row in rows:
            if row.part is None:
                yield row, None
                continue
            key = (row.part, row.blob_offset)
            if key not in frames:
                disk_id, stream_id, blob = blobs[row.part]
                stored = self.blob(disk_id, stream_id, blob)
                whole = one_frame(
                    stored[row.blob_offset : row.blob_offset + row.blob_length], row.frame_length
                )
                demand(
                    blake3.blake3(whole).digest() == row.digest, f"the frame at {row.start} is another one"
                )
                frames = {key: whole}  # rows of one frame may be apart; reading it again costs only time
            yield row, frames[key][row.skip : row.skip + row.length]

    # -- objects

    def blob(self, disk_id: str, stream_id: str, stored: Document) -> bytes:
        data = (self.path / f"blobs/{disk_id}/{stream_id}.sparse.zst").read_bytes()
        demand(len(data) == stored["size"], f"the size of the blob of {stream_id}")
        return data

    def part_blobs(self, entry: Document) -> Iterator[tuple[int, tuple[str, str, Document]]]:
        """The number and the blob of each part of a stream, as its record tells."""
        own = (entry["disk_id"], entry["stream_id"], entry.get("blob", {}))
        if "parts" not in entry:
            if "blob" in entry:
                yield 0, own
            return
        parts = [(part["disk_id"], part["stream_id"], part["blob"]) for part in entry["parts"]]
        if "blob" in entry:
            demand(parts[0] == own, "the own blob must be the first part")
        yield from enumerate(parts, 0 if "blob" in entry else 1)

    def index(self, record: Document, entry: Document) -> list[Row]:
        """The rows of an extent index, checked; of its second copy if the first one is damaged."""
        try:
            path = self.index_path(entry)
        except Broken:
            demand("index_copy" in entry, f"the index of {entry['stream_id']} is damaged")
            path = self.index_path(entry, second=True)
        demand(not path.with_name(path.name + "-wal").exists(), "an index with a journal")
        connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
        try:
            demand(connection.execute("PRAGMA application_id").fetchone() == (0x70697478,), "no index")
            demand(
                connection.execute("PRAGMA user_version").fetchone() == (2,), "another version of the index"
            )
            streams = connection.execute(f"SELECT {', '.join(_STREAM_KEYS)} FROM stream").fetchall()  # noqa: S608
            expected = tuple({**entry, "backup_id": record["backup_id"]}[key] for key in _STREAM_KEYS)
            demand(streams == [expected], f"the index is of another stream: {streams}, not {expected}")
            parts = connection.execute(
                "SELECT number, disk_id, stream_id, blob_size, blob_digest FROM part ORDER BY number"
            ).fetchall()
            told = [
                (number, disk, stream, blob["size"], blob["digest"])
                for number, (disk, stream, blob) in self.part_blobs(entry)
            ]
            demand(parts == told, f"the parts of the index are {parts}, not {told}")
            rows = [
                Row(*row)
                for row in connection.execute(
                    "SELECT start, length, part, blob_offset, blob_length, frame_length, skip, digest "
                    "FROM extent ORDER BY start"
                )
            ]
        finally:
            connection.close()
        check_rows(
            rows, entry, {number: blob["size"] for number, _, _, blob in _flat(self.part_blobs(entry))}
        )
        return rows

    def index_path(self, entry: Document, *, second: bool = False) -> Path:
        """The file of an index, whose size and digest are as in the record."""
        which = "copy" if second else "index"
        path = self.path / f"indexes/{entry['disk_id']}/{entry['stream_id']}.{which}.db"
        stored = entry["index_copy" if second else "index"]
        data = path.read_bytes() if path.exists() else b""
        whole = len(data) == stored["size"] and digest_of(data) == stored["digest"]
        demand(whole, f"the index {path.name} is damaged")
        return path

    def configuration(self, backup_id: str) -> bytes | None:
        stored = self.records[backup_id]["configuration"]
        if stored is None:
            return None
        data: bytes = (self.path / "configurations" / stored["digest"]).read_bytes()
        demand(len(data) == stored["size"] and digest_of(data) == stored["digest"], "a damaged configuration")
        return data

    # -- everything

    def check(self) -> None:
        """Read every object that a record names, completely, and compare what each says about the others."""
        for record in self.records.values():
            self.configuration(record["backup_id"])
            for entry in record["disks"]:
                self.check_stream(record, entry)

    def check_stream(self, record: Document, entry: Document) -> None:
        self.index_path(entry)
        rows = self.index(record, entry)
        if "index_copy" in entry:
            self.index_path(entry, second=True)
        live = {number: 0 for number, _ in self.part_blobs(entry)}
        for row in rows:
            if row.part is not None:
                live[row.part] += row.length
        demand(sum(live.values()) == entry["data_bytes"], "data_bytes")
        demand(sum(row.length for row in rows if row.part is None) == entry["zero_bytes"], "zero_bytes")
        demand(len(rows) == entry["extents"], "extents")
        if "parts" in entry:
            told = [part["live_bytes"] for part in entry["parts"]]
            demand(told == list(live.values()), f"live_bytes: {told}, not {live}")
        for number, (disk_id, stream_id, stored) in self.part_blobs(entry):
            if "external" in entry:
                continue
            blob = self.blob(disk_id, stream_id, stored)
            demand(digest_of(blob) == stored["digest"], f"the blob of {stream_id} is damaged")
            found = Walked(blob)
            demand(found.meta["stream-id"] == stream_id, "the blob is of another stream")
            frames = {frame[:4]: frame for frame in found.frames}
            used = [row for row in rows if row.part == number]
            for row in used:
                frame = frames.get((row.blob_offset, row.blob_length, row.frame_length, row.origin))
                demand(frame is not None and frame[4] == row.digest, f"no such frame: {row}")
            if number == 0:
                demand(found.frames == [row.frame for row in used], "the own blob has other frames")
                check_meta(found.meta, record, entry)
            if number == 0 and "parts" not in entry:
                zeroes = [(row.start, row.length) for row in rows if row.part is None]
                demand(found.zeroes == zeroes, "the blob has other zeroes than its index")
        list(self.pieces(record, entry))


def _flat(blobs: Iterator[tuple[int, tuple[str, str, Document]]]) -> Iterator[tuple[int, str, str, Document]]:
    for number, (disk_id, stream_id, blob) in blobs:
        yield number, disk_id, stream_id, blob


# -- documents


def document(data: bytes) -> Document:
    """A document in canonical form whose digest is right."""

    def once(pairs: list[tuple[str, Any]]) -> Document:
        demand(len({key for key, _ in pairs}) == len(pairs), "a key twice")
        return dict(pairs)

    def refused(text: str) -> None:
        raise Broken(f"a number that is no integer: {text}")

    try:
        parsed = json.loads(
            data.decode(), object_pairs_hook=once, parse_float=refused, parse_constant=refused
        )
    except ValueError as error:
        raise Broken(f"no JSON: {error}") from error
    demand(isinstance(parsed, dict), "no object")
    demand(canonical(parsed) == data, "not in canonical form")
    told = parsed.pop("digest")
    demand(digest_of(canonical(parsed)) == told, "the digest of a document")
    return {**parsed, "digest": told}


def canonical(value: object) -> bytes:
    # The order of code points is the order of their UTF-8 bytes.
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def time_of(text: str) -> datetime:
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if "." in text else "%Y-%m-%dT%H:%M:%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def check_record(record: Document, name: str) -> None:
    """Check that a record has its place, and does not contradict itself."""
    point = time_of(record["point"])
    expected = f"backups/{record['vm_id']}/{point:%Y%m%dT%H%M%S.%fZ}-{record['backup_id']}.json"
    demand(name == expected, f"{name} must be {expected}")
    demand(record["format"] == 2, "the format of a record")
    demand(time_of(record["lo"]) <= point, "lo is after the point")
    disks = record["disks"]
    for each in [record["vm_id"], record["backup_id"], *(entry["disk_id"] for entry in disks)]:
        demand(_ID.fullmatch(each), f"{each} is no id")
    for key in ("disk_id", "stream_id"):
        demand(len({entry[key] for entry in disks}) == len(disks), f"a {key} twice")
    incremental = any(entry["kind"] == "incremental" for entry in disks)
    demand((record["kind"] == "incremental") == incremental, "the kind of a record")
    demand((record["parent_id"] is not None) == incremental, "a parent exactly of an incremental")
    demand("stands_for" not in record or record["kind"] == "synthetic", "stands_for in another kind")
    for entry in disks:
        demand((entry["parent_stream_id"] is not None) == (entry["kind"] == "incremental"), "a parent stream")
        demand(
            "changes" not in entry or entry["kind"] == "incremental", f"changes of a {entry['kind']} stream"
        )
        demand(
            "blob" in entry or "index_copy" in entry, "a stream of parts needs the second copy of its index"
        )
        demand("parts" not in entry or "index_copy" in entry, "a stream of parts is indexed twice")
        demand("index_copy" not in entry or entry["index_copy"] == entry["index"], "the copies differ")
        demand("external" not in entry or "parts" not in entry, "a stream of parts is external")
    demand(len(record["private"]["disks"]) == len(disks), "private.disks")
    demand(len(record["private"]["left_out"]) == len(record["left_out"]), "private.left_out")


def entry_of(record: Document, disk_id: str) -> Document:
    for entry in record["disks"]:
        if entry["disk_id"] == disk_id:
            assert isinstance(entry, dict)
            return entry
    raise Broken(f"disk {disk_id} is not in backup {record['backup_id']}")


def check_meta(meta: Document, record: Document, entry: Document) -> None:
    expected = {
        "virtual-size": entry["size"],
        # The own blob of a stream of parts holds only some of the disk.
        "incremental": entry["kind"] == "incremental" or "parts" in entry,
        "stream-id": entry["stream_id"],
        "disk-id": entry["disk_id"],
        "vm-id": record["vm_id"],
        "backup-id": record["backup_id"],
        "parent-stream-id": entry["parent_stream_id"],
    }
    if "parent-backup-id" in meta:
        expected["parent-backup-id"] = record["parent_id"]
    found = {key: meta.get(key) for key in expected}
    demand(found == expected, f"the meta of a blob is {found}, not {expected}")


# -- indexes and blobs


def check_rows(rows: list[Row], entry: Document, blob_sizes: dict[int, int]) -> None:
    """Check that the rows fit into the disk, the grid, their frames and their blobs."""
    at = 0
    grid = entry["frame_size"]
    ends = dict.fromkeys(blob_sizes, 0)
    last: dict[int, Row] = {}
    for row in rows:
        demand(row.length > 0 and row.start >= at, f"extents overlap at {row.start}")
        demand(row.start == at or entry["kind"] == "incremental", f"a gap at {at}")
        at = row.end
        if row.part is None:
            columns: set[object] = {row.blob_offset, row.blob_length, row.frame_length, row.skip, row.digest}
            demand(columns == {None}, "a zero range with a frame")
            continue
        demand(row.part in blob_sizes, f"part {row.part} is unknown")
        before = last.get(row.part)
        demand(row.skip >= 0 and row.skip + row.length <= row.frame_length, "a row outside its frame")
        demand(row.origin // grid == (row.origin + row.frame_length - 1) // grid, "a frame crosses the grid")
        demand(len(row.digest) == 32 and row.blob_length > 0, "a frame without bytes or digest")
        again = before is not None and before.frame == row.frame
        demand(not again or row.part != 0, "a frame of the own blob in two rows")
        demand(row.part != 0 or (row.skip == 0 and row.length == row.frame_length), "an own frame in part")
        demand(again or row.blob_offset >= ends[row.part], "frames are not in order")
        ends[row.part] = row.blob_offset + row.blob_length
        demand(ends[row.part] <= blob_sizes[row.part], "a frame behind the end of its blob")
        last[row.part] = row
    demand(at <= entry["size"], "an extent behind the end of the disk")
    demand(at == entry["size"] or entry["kind"] == "incremental", "a gap at the end of the disk")


def one_frame(stored: bytes, length: int) -> bytes:
    """Decompress one frame of a stated length."""
    parameters = zstandard.get_frame_parameters(stored)
    demand(parameters.content_size == length, "a frame states another length")
    demand(parameters.has_checksum and parameters.dict_id == 0, "a frame without a checksum")
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        whole = decompressor.decompress(stored)
    except zstandard.ZstdError as error:
        raise Broken(f"a damaged frame: {error}") from error
    demand(decompressor.eof and not decompressor.unused_data and len(whole) == length, "bytes behind a frame")
    return whole


_HEADER = re.compile(rb"(meta|data|zero|stop) ([0-9a-fA-F]{16}) ([0-9a-fA-F]{16})\r\n")


@dataclass
class Walked:
    """A blob, read from front to back: its meta, its data frames as rows tell them, and its zero ranges."""

    blob: bytes
    meta: Document = field(default_factory=dict)
    frames: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)
    zeroes: list[tuple[int, int]] = field(default_factory=list)
    #: Text that was read and not yet used, the payload that must come next, and the end of the last extent.
    text: bytes = b""
    due: tuple[int, int] | None = None
    end: int = 0
    stopped: bool = False
    #: Whether CR LF must come before the next header.
    behind_data: bool = False

    def __post_init__(self) -> None:
        at = 0
        while at < len(self.blob):
            length, whole = _next_frame(self.blob, at)
            if self.due is None:
                demand(len(whole) <= _TEXT_LIMIT, "a huge text frame")
                self.text += whole
            else:
                start, expected = self.due
                demand(len(whole) == expected, f"the data frame at {at} is not one payload")
                self.frames.append((at, length, len(whole), start, blake3.blake3(whole).digest()))
                self.due, self.behind_data = None, True
            at += length
            while self.due is None and not self.stopped and self._header():
                pass
        demand(self.stopped and not self.text and self.due is None, "the stream has no end")
        size = self.meta["virtual-size"]
        whole_disk = self.end == size or (self.end < size and self.meta["incremental"])
        demand(whole_disk, "the stream ends elsewhere than the disk")

    def _header(self) -> bool:
        """Take the next header from the text, if it is there as a whole."""
        text = self.text
        if self.behind_data:
            if len(text) < 2:
                return False
            demand(text[:2] == b"\r\n", "no CR LF behind data")
            self.behind_data, self.text = False, text[2:]
            return True
        if len(text) < 40:
            return False
        header = _HEADER.fullmatch(text[:40])
        if header is None:
            raise Broken(f"no header: {text[:40]!r}")
        kind, start, length = header[1], int(header[2], 16), int(header[3], 16)
        if kind == b"meta":
            return self._take_meta(start, length)
        self.text = text[40:]
        demand(self.meta, "meta must come first")
        if kind == b"stop":
            demand((start, length) == (0, 0), "a stop with numbers")
            self.stopped = True
        else:
            self._take_extent(kind, start, length)
        return True

    def _take_meta(self, start: int, length: int) -> bool:
        if len(self.text) < 42 + length:
            return False
        demand(not self.meta and start == 0, "a second meta")
        self.meta = json.loads(self.text[40 : 40 + length])
        demand(self.text[40 + length : 42 + length] == b"\r\n", "no CR LF behind meta")
        self.text = self.text[42 + length :]
        return True

    def _take_extent(self, kind: bytes, start: int, length: int) -> None:
        demand(length > 0 and start >= self.end, "extents overlap")
        demand(start == self.end or self.meta["incremental"], "a gap in a full")
        self.end = start + length
        if kind == b"data":
            demand(not self.text, "text behind the header of a data frame")
            self.due = start, length
            return
        demand(not self.zeroes or sum(self.zeroes[-1]) != start, "zeroes touch")
        self.zeroes.append((start, length))


def _next_frame(blob: bytes, at: int) -> tuple[int, bytes]:
    """The stored length and the content of the frame at an offset."""
    parameters = zstandard.get_frame_parameters(blob[at : at + 18])
    demand(parameters.content_size < 1 << 25 and parameters.has_checksum, f"the frame at {at}")
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    pieces = []
    position = at
    while not decompressor.eof:
        demand(position < len(blob), "a frame without an end")
        pieces.append(decompressor.decompress(blob[position : position + (1 << 14)]))
        position = min(position + (1 << 14), len(blob))
    whole = b"".join(pieces)
    demand(len(whole) == parameters.content_size, f"the frame at {at} states another length")
    return position - len(decompressor.unused_data) - at, whole
