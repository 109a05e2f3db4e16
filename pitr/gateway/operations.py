# SPDX-License-Identifier: GPL-2.0-or-later
"""What the gateway can be asked, in one place: requests are checked against it, and the description is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pitr.errors import UsageError

SPARSE = "application/x-ovirt-sparse-stream"
ZSTD = "application/zstd"
RAW = "application/octet-stream"
RBD_DIFF = "application/x-rbd-diff"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query: one of `choices`, or what `pattern` matches whole."""

    name: str
    description: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    pattern: str = ""

    def checked(self, value: str) -> str:
        if self.choices and value not in self.choices:
            raise UsageError(f"{self.name} is one of {', '.join(self.choices)}, not {value[:100]!r}")
        if self.pattern and re.fullmatch(self.pattern, value) is None:
            raise UsageError(f"{self.name} cannot be {value[:100]!r}", self.description)
        return value


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answers`: media types of what is sent when all is well. `errors`: HTTP statuses."""

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
        """All parameters with their values. Raises UsageError for what is none of them, wrong or given twice."""
        known = {parameter.name: parameter for parameter in self.parameters}
        values: dict[str, str | None] = {}
        for name, value in given:
            if name not in known:
                raise UsageError(
                    f"there is no parameter {name[:100]!r}",
                    f"There are: {', '.join(known) or 'none'}.",
                )
            if name in values:
                raise UsageError(f"the parameter {name} is given twice")
            values[name] = known[name].checked(value)
        return {name: values.get(name, parameter.default) for name, parameter in known.items()}


_COMPRESS = Parameter(
    "compress",
    "zstd frames, or the plain stream that other programs read as it is.",
    ("none", "zstd"),
    "none",
)
_SPARSE_ONLY = Parameter("format", "An oVirt sparse stream.", ("sparse",), "sparse")
_YES = ("true", "false")
_POINT_DISK = (
    Parameter(
        "format",
        "sparse: an oVirt sparse stream; raw: the bytes of the disk, with ranges; rbd-diff, rbd-diff-v2: what Ceph's "
        "tools import.",
        ("sparse", "raw", "rbd-diff", "rbd-diff-v2"),
        "sparse",
    ),
    Parameter(
        "since",
        "Only what is different from this point, an earlier or a later one: its id or the beginning of it. Not with "
        "raw.",
        pattern=r"[\w-]{4,64}",
    ),
    _COMPRESS,
)

#: What may go wrong with what the repository holds, and with disks of the engine.
_ERRORS_OF_POINTS = (404, 422, 500, 501, 503)
_ERRORS_OF_IMAGES = (404, 409, 422, 501, 502, 503)

IMAGES = "/images/{image}"
POINT_DISK = "/points/{point}/disks/{disk}"

_GET_POINT_DISK = Operation(
    "getPointDisk",
    "get",
    POINT_DISK,
    "A disk as it was at a point",
    "A stream whose body ends without its last chunk, or is shorter than its Content-Length, has failed.",
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
        "Whether the gateway answers",
        "It needs no token, and tells nothing else.",
        schema="Health",
        open_to_all=True,
    ),
    Operation(
        "getDescription",
        "get",
        "/openapi.json",
        "This description",
        "It needs no token.",
        schema="Description",
        open_to_all=True,
    ),
    Operation(
        "listPoints",
        "get",
        "/points",
        "The points in time that can be restored, newest first",
        "As `pitr list --output json`.",
        (Parameter("vm", "Only those of this VM: its id or name.", pattern=r".{1,255}"),),
        schema="Points",
        errors=_ERRORS_OF_POINTS,
    ),
    Operation(
        "getPoint",
        "get",
        "/points/{point}",
        "One point, and the chain that it stands on",
        "As `pitr show POINT --output json`.",
        schema="PointAndChain",
        errors=_ERRORS_OF_POINTS,
    ),
    _GET_POINT_DISK,
    replace(
        _GET_POINT_DISK,
        id="headPointDisk",
        method="head",
        summary="What a GET would tell of a disk at a point, without its data",
        description="With format=raw its size is the Content-Length.",
    ),
    Operation(
        "getImage",
        "get",
        IMAGES,
        "A disk of the engine as a sparse stream, straight from ovirt-imageio",
        "With the id of a transfer (a download that somebody has started) its data is sent and the transfer is left "
        "open. With the id of a disk the gateway starts a transfer of its own, and ends it before the last byte is "
        "sent. A stream whose body ends without its last chunk has failed; it has no end of its own either.",
        (
            _SPARSE_ONLY,
            Parameter(
                "context",
                "zero: all of the disk; dirty: what was written or zeroed since the checkpoint that the backup "
                "started from.",
                ("zero", "dirty"),
                "zero",
            ),
            Parameter(
                "backup",
                "With the id of a disk: the id of the running backup that it is read from.",
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
        "With the id of a transfer (an upload that somebody has started) that one is written to and left open: who "
        "started it finalizes it after a success, and cancels it after a failure, with which the engine removes its "
        "disk. With the id of a disk the gateway starts an upload of its own, only for a disk that is said to be new "
        "and holds nothing: when that upload fails, the engine removes the disk.",
        (
            _SPARSE_ONLY,
            Parameter("new", "With the id of a disk: it is new, and may be lost.", _YES, "false"),
            Parameter(
                "incremental",
                "With the id of a transfer: the stream holds only what changed, and goes onto what the disk holds.",
                _YES,
                "false",
            ),
        ),
        schema="Restored",
        takes=(SPARSE, ZSTD, RAW),
        errors=(400, *_ERRORS_OF_IMAGES),
    ),
)
