# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of the gateway. Requests are checked against them, and the description is generated from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pitr.errors import UsageError
from pitr.jobs.export import ExportFormat
from pitr.ovirt.imageio.extents import Context
from pitr.repository.stream_sink import Compression

SPARSE = "application/x-ovirt-sparse-stream"
ZSTD = "application/zstd"
RAW = "application/octet-stream"
RBD_DIFF = "application/x-rbd-diff"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. Its value is one of `choices`, or matches `pattern` as a whole."""

    name: str
    description: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    pattern: str = ""

    def checked(self, value: str) -> str:
        if self.choices and value not in self.choices:
            raise UsageError(f"{self.name} must be one of {', '.join(self.choices)}, not {value[:100]!r}")
        if self.pattern and re.fullmatch(self.pattern, value) is None:
            raise UsageError(f"{self.name} must not be {value[:100]!r}", self.description)
        return value


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answers`: media types of successful answers. `errors`: HTTP statuses."""

    id: str
    method: Literal["get", "head", "put"]
    path: str
    summary: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    answers: tuple[str, ...] = (JSON,)
    schema: str = ""
    takes: tuple[str, ...] = ()
    has_ranges: bool = False
    errors: tuple[int, ...] = ()
    open_to_all: bool = False

    def query(self, given: Iterable[tuple[str, str]]) -> dict[str, str | None]:
        """Return the value of each parameter. Raises UsageError for unknown, wrong and repeated parameters."""
        known = {parameter.name: parameter for parameter in self.parameters}
        values: dict[str, str | None] = {}
        for name, value in given:
            if name not in known:
                raise UsageError(
                    f"unknown parameter {name[:100]!r}",
                    f"Use {', '.join(known)}." if known else "This operation has no parameters.",
                )
            if name in values:
                raise UsageError(f"the parameter {name} is given twice")
            values[name] = known[name].checked(value)
        return {name: values.get(name, parameter.default) for name, parameter in known.items()}


_COMPRESS = Parameter(
    "compress",
    "zstd frames, or the plain stream that other programs can read.",
    get_args(Compression),
    "none",
)
_SPARSE_ONLY = Parameter("format", "An oVirt sparse stream.", ("sparse",), "sparse")
_YES = ("true", "false")
_POINT_DISK = (
    Parameter(
        "format",
        "sparse: an oVirt sparse stream; raw: the bytes of the disk, with ranges; rbd-diff, rbd-diff-v2: for Ceph's "
        "tools.",
        tuple(choice.value for choice in ExportFormat),
        "sparse",
    ),
    Parameter(
        "since",
        "Only the differences from this point, an earlier or a later one: its id or the beginning of it. Not with "
        "raw.",
        pattern=r"[\w-]{4,64}",
    ),
    _COMPRESS,
)

#: The possible errors of requests for points, and for disks of the engine.
_ERRORS_OF_POINTS = (404, 422, 500, 501, 503)
_ERRORS_OF_IMAGES = (404, 409, 422, 501, 502, 503)

IMAGES = "/images/{image}"
POINT_DISK = "/points/{point}/disks/{disk}"

_GET_POINT_DISK = Operation(
    "getPointDisk",
    "get",
    POINT_DISK,
    "Read a disk as it was at a point",
    "If the body ends without its last chunk, or is shorter than its Content-Length, the stream has failed.",
    _POINT_DISK,
    (SPARSE, ZSTD, RAW, RBD_DIFF),
    has_ranges=True,
    errors=_ERRORS_OF_POINTS,
)

OPERATIONS = (
    Operation(
        "getHealth",
        "get",
        "/health",
        "Check whether the gateway answers",
        "This needs no token.",
        schema="Health",
        open_to_all=True,
    ),
    Operation(
        "getDescription",
        "get",
        "/openapi.json",
        "Get this description",
        "This needs no token.",
        schema="Description",
        open_to_all=True,
    ),
    Operation(
        "listPoints",
        "get",
        "/points",
        "List the restorable points, newest first",
        "The document of `pitr list --output json`.",
        (Parameter("vm", "Only the points of this VM: its id or name.", pattern=r".{1,255}"),),
        schema="Points",
        errors=_ERRORS_OF_POINTS,
    ),
    Operation(
        "getPoint",
        "get",
        "/points/{point}",
        "Show one point and its chain",
        "The document of `pitr show POINT --output json`.",
        schema="PointAndChain",
        errors=_ERRORS_OF_POINTS,
    ),
    _GET_POINT_DISK,
    replace(
        _GET_POINT_DISK,
        id="headPointDisk",
        method="head",
        summary="Get the headers for a disk at a point, without its data",
        description="With format=raw, the Content-Length is the size of the disk.",
    ),
    Operation(
        "getImage",
        "get",
        IMAGES,
        "Read a disk of the engine as a sparse stream, directly from ovirt-imageio",
        "With the id of a transfer (a download that you have started), the gateway sends its data and leaves the "
        "transfer open. With the id of a disk, the gateway starts a transfer, and ends it before it sends the last "
        "byte. If the body ends without its last chunk, the stream has failed, and it also lacks its own end.",
        (
            _SPARSE_ONLY,
            Parameter(
                "context",
                "zero: the whole disk; dirty: the ranges that were written or zeroed since the checkpoint from which "
                "the backup started.",
                get_args(Context),
                "zero",
            ),
            Parameter(
                "backup",
                "With the id of a disk: the id of the running backup to read it from.",
                pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
            ),
            _COMPRESS,
        ),
        (SPARSE, ZSTD),
        errors=_ERRORS_OF_IMAGES,
    ),
    Operation(
        "putImage",
        "put",
        IMAGES,
        "Write a sparse stream to a disk of the engine",
        "With the id of a transfer (an upload that you have started), the gateway writes to it and leaves it open. "
        "Finalize it after a success, and cancel it after a failure; then the engine removes its disk. With the id "
        "of a disk, the gateway starts an upload, but only if new=true says that the disk is new, and it reads as "
        "zero. When that upload fails, the engine removes the disk.",
        (
            _SPARSE_ONLY,
            Parameter("new", "With the id of a disk: the disk is new, and may be lost.", _YES, "false"),
            Parameter(
                "incremental",
                "With the id of a transfer: the stream holds only changes to the data of the disk.",
                _YES,
                "false",
            ),
        ),
        schema="Restored",
        takes=(SPARSE, ZSTD, RAW),
        errors=(400, *_ERRORS_OF_IMAGES),
    ),
)
