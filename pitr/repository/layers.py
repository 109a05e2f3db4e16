# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers of one stream: its own blob and the blobs of other streams whose frames it uses.

A stream of parts becomes one layer for each part. The ranges of the parts do not overlap, so their order is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pitr.extents import ExtentMap
from pitr.model import Backup, Stream
from pitr.repository.index import OWN, Index, IndexMaps
from pitr.repository.resolver import Layer

if TYPE_CHECKING:
    from pitr.model import Part


@dataclass(frozen=True, slots=True)
class LayerSource:
    """The origin of a layer: the part `number` of the index of `indexed`.

    `stream` names the blob with the layer's frames: `indexed` itself, or another stream. `backup` is the backup of
    `indexed`, which names that blob.
    """

    backup: Backup
    stream: Stream
    indexed: Stream
    number: int = OWN


def layers_of(
    backup: Backup, stream: Stream, index: Index, maps: IndexMaps | None = None
) -> Iterator[tuple[LayerSource, Layer]]:
    """Yield the layers of a stream: the zero ranges and its own frames first. Raises FormatError."""
    extents = index.extents() if maps is None else maps.extents
    others = [part for part in index.parts if part.number != OWN]
    numbers = None
    if others:
        numbers = index.part_numbers() if maps is None else maps.parts
    if numbers is None:
        yield LayerSource(backup, stream, stream), Layer(extents, stream.size)
        return
    own = numbers <= OWN
    yield LayerSource(backup, stream, stream), Layer(_rows(extents, own), stream.size)
    first = OWN if stream.blob is not None else OWN + 1
    for part in others:
        named = stream_of_part(stream, stream.parts[part.number - first])
        layer = Layer(_rows(extents, numbers == part.number), stream.size)
        yield LayerSource(backup, named, stream, part.number), layer


def stream_of_part(stream: Stream, part: Part) -> Stream:
    """Return the stream that `part` of `stream` names, as far as the part says. It can only be used for its blob."""
    return replace(
        stream,
        disk_id=part.disk_id,
        stream_id=part.stream_id,
        blob=part.blob,
        external=None,
        parts=(),
        index_copy=None,
    )


def blobs_of_others(stream: Stream) -> list[Stream]:
    """Return the streams whose frames this one uses, as far as its parts say."""
    return [stream_of_part(stream, part) for part in stream.parts if part.stream_id != stream.stream_id]


def _rows(extents: ExtentMap, chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> ExtentMap:
    return ExtentMap(extents.start[chosen], extents.length[chosen], extents.zero[chosen])
