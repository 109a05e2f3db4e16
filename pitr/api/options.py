# SPDX-License-Identifier: GPL-2.0-or-later
"""The keyword options of `open_source` and `open_sink`.

The TypedDicts type the calls; the dataclasses hold the values with their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from pitr.ovirt.imageio.disk import ImageioAddress
from pitr.ovirt.imageio.extents import Context
from pitr.repository.stream_sink import Compression

SinkFormat = Literal["raw", "qcow2", "sparse", "rbd-diff", "rbd-diff-v2"]

T = TypeVar("T")


class TransferKeywords(TypedDict, total=False):
    """The options of the URL of an imageio transfer."""

    proxy_url: str | None
    cafile: str | Path | None
    secure: bool


class SourceKeywords(TransferKeywords, total=False):
    format: Literal["raw", "qcow2"] | None
    context: Context
    point: str | None
    disk: str | None
    since: str | None
    stream: str | None


class SinkKeywords(TransferKeywords, total=False):
    format: SinkFormat | None
    compression: Compression
    incremental: bool
    meta: Mapping[str, Any] | None
    from_snapshot: str | None
    to_snapshot: str | None
    reads_zero: bool
    overwrite_device: bool
    vm: str | None
    disk: str | None
    time: datetime | None
    onto: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    proxy_url: str | None = None
    cafile: str | Path | None = None
    secure: bool = True

    def address(self, url: str) -> ImageioAddress:
        """Return the address of the transfer at `url`."""
        return ImageioAddress(url, self.proxy_url, self.cafile, self.secure)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions(TransferOptions):
    format: Literal["raw", "qcow2"] | None = None
    context: Context = "zero"
    point: str | None = None
    disk: str | None = None
    since: str | None = None
    stream: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions(TransferOptions):
    format: SinkFormat | None = None
    compression: Compression = "zstd"
    incremental: bool = False
    meta: Mapping[str, Any] | None = None
    from_snapshot: str | None = None
    to_snapshot: str | None = None
    reads_zero: bool = False
    overwrite_device: bool = False
    vm: str | None = None
    disk: str | None = None
    time: datetime | None = None
    onto: str | None = None


def gather(kind: type[T], function: str, keywords: Mapping[str, object]) -> T:
    """Return the options that a call of `function` gave. Raises TypeError for an unknown name, as Python does."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in keywords:
        if name not in known:
            raise TypeError(f"{function}() has no option {name!r}: use {', '.join(sorted(known))}")
    return kind(**keywords)
