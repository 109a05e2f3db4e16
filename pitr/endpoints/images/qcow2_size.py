# SPDX-License-Identifier: GPL-2.0-or-later
"""The size of a qcow2 image before it is written, as `qemu-img measure` computes it (qcow2_measure in qemu)."""

from __future__ import annotations

import numpy as np

from pitr.extents import ExtentMap

#: The defaults of qemu and of vdsm: clusters of 64 KiB, refcounts of 16 bits.
_CLUSTER = 64 << 10
_ENTRY = 8
_REFCOUNTS_PER_BLOCK = _CLUSTER * 8 // 16


def qcow2_size(size: int, extents: ExtentMap) -> int:
    """Return the bytes that a qcow2 image of a disk of `size` bytes needs for the data in `extents`.

    Like `qemu-img measure`, it counts the metadata of a full image.
    """
    data = ~extents.zero
    first = extents.start[data] // _CLUSTER
    last = (extents.start[data] + extents.length[data] - 1) // _CLUSTER
    if len(first):
        # Two extents can share a cluster.
        first[1:] = np.maximum(first[1:], last[:-1] + 1)
    clusters = int((last - first + 1).clip(min=0).sum())
    return _metadata_bytes(size) + clusters * _CLUSTER


def _metadata_bytes(size: int) -> int:
    whole = _up(size, _CLUSTER)
    level2 = _up(whole // _CLUSTER, _CLUSTER // _ENTRY) * _ENTRY
    level1 = _up(level2 // _CLUSTER, _CLUSTER // _ENTRY) * _ENTRY
    metadata = _CLUSTER + level2 + level1
    return metadata + _refcount_bytes((metadata + whole) // _CLUSTER)


def _refcount_bytes(clusters: int) -> int:
    # The blocks and the table of refcounts are counted themselves.
    blocks = table = 0
    while True:
        before = blocks + table
        blocks = -(-(clusters + before) // _REFCOUNTS_PER_BLOCK)
        table = -(-blocks // (_CLUSTER // _ENTRY))
        if blocks + table == before:
            return before * _CLUSTER


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
