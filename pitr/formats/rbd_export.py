# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of `rbd export --export-format 2`: an image with all its snapshots.

A banner, the image's settings (tag, le64 length, payload), a second banner and the number of diffs come first. Then
follow rbd diffs of version 2: one to each snapshot, and one from the newest snapshot to the image itself.
Source: doc/dev/rbd-export and src/tools/rbd/action/Export.cc of Ceph.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from pitr.errors import FormatError
from pitr.formats.reading import read_exactly

BANNER: Final = b"rbd image v2\n"
DIFFS_BANNER: Final = b"rbd image diffs v2\n"
_END: Final = b"E"
_U64: Final = struct.Struct("<Q")
#: Ceph's settings take a few bytes, its metadata of an image a few kilobytes.
_MAX_SETTING: Final = 1 << 24
_MAX_SETTINGS: Final = 1 << 16
_MAX_DIFFS: Final = 1 << 20


def read_header(stream: BinaryIO) -> int:
    """Read all that comes before the first diff, and return the number of diffs. Raises FormatError."""
    if _take(stream, len(BANNER)) != BANNER:
        raise FormatError("not an rbd image of export format 2")
    for _ in range(_MAX_SETTINGS):
        if _take(stream, 1) == _END:
            break
        length = _number(stream)
        if length > _MAX_SETTING:
            raise FormatError(f"a setting of the rbd image claims {length} bytes")
        _take(stream, length)
    if _take(stream, len(DIFFS_BANNER)) != DIFFS_BANNER:
        raise FormatError("the rbd image has no list of diffs")
    count = _number(stream)
    if not 0 < count <= _MAX_DIFFS:
        raise FormatError(f"the rbd image claims {count} diffs")
    return count


def _number(stream: BinaryIO) -> int:
    value: int = _U64.unpack(_take(stream, _U64.size))[0]
    return value


def _take(stream: BinaryIO, length: int) -> bytes:
    return read_exactly(stream.read, length, name="rbd image")
