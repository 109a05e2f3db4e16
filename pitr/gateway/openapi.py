# SPDX-License-Identifier: GPL-2.0-or-later
"""The gateway's OpenAPI 3.1 description. It is generated from the operations that the gateway checks requests with."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

from pitr.gateway import operations
from pitr.gateway.operations import JSON, OPERATIONS, Operation, Parameter
from pitr.version import __version__

_PATH_PARAMETERS = {
    "image": "The id of a transfer, or of a disk.",
    "point": "The id of a point, or its beginning (at least three characters).",
    "disk": "The id of a disk, or its name at that point.",
}
_ERRORS = {
    400: "The body is not a complete sparse stream, or it is damaged.",
    401: "The bearer token is missing or wrong.",
    404: "The point, VM, disk, transfer or backup does not exist.",
    409: "The request conflicts with the state of the transfer or disk: its direction, its phase, a lock, its data.",
    416: "The range is outside the disk.",
    422: "A parameter is unknown, wrong, or conflicts with another one.",
    500: "Stored data is damaged or unreadable.",
    501: "The gateway was started without an engine, or without a repository.",
    502: "The engine or ovirt-imageio refused, failed or is unreachable.",
    503: "The maximum number of streams is reached, or pitr is removing points: try again later.",
}
_BINARY: dict[str, Any] = {}


@cache
def document() -> dict[str, Any]:
    """Return the whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pitr gateway",
            "version": __version__,
            "summary": "Disks of oVirt VMs and their points, as streams.",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
            "responses": {str(status): _error(status) for status in _ERRORS},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*_in_path(operation), *(_in_query(parameter) for parameter in operation.parameters)],
        "responses": _responses(operation),
    }
    if operation.has_ranges:
        described["parameters"] += _RANGE_HEADERS
    if operation.open_to_all:
        described["security"] = []
    if operation.takes:
        described["requestBody"] = {
            "required": True,
            "description": "An oVirt sparse stream, plain or as zstd frames, chunked or with its length.",
            "content": {media_type: {"schema": _BINARY} for media_type in operation.takes},
        }
    return described


def _in_path(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in _PATH_PARAMETERS.items()
        if f"{{{name}}}" in operation.path
    ]


def _in_query(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.pattern:
        schema["pattern"] = f"^{parameter.pattern}$"
    if parameter.default is not None:
        schema["default"] = parameter.default
    return {"name": parameter.name, "in": "query", "description": parameter.description, "schema": schema}


_TEXT = {"type": "string"}
_RANGE_HEADERS = [
    {
        "name": name,
        "in": "header",
        "description": f"With format=raw: {text}",
        "schema": _TEXT,
    }
    for name, text in (
        (
            "Range",
            "a range of bytes: bytes=0-511, bytes=512-, bytes=-512; or up to 64 ranges, separated by commas: the "
            "answer is multipart/byteranges.",
        ),
        ("If-Range", "the ETag of an earlier answer; if it does not match, the whole disk is sent."),
        ("If-None-Match", "an ETag; if it matches, no data is sent."),
    )
]


def _responses(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.method != "head":
        for media_type in operation.answers if not operation.schema else (JSON,):
            schema = {"$ref": f"#/components/schemas/{operation.schema}"} if operation.schema else _BINARY
            content[media_type] = {"schema": schema}
    headers = {} if operation.schema else {"Content-Disposition": {"schema": _TEXT}}
    if operation.has_ranges:
        headers |= {name: {"schema": _TEXT} for name in ("Accept-Ranges", "ETag", "Content-Length")}
    responses: dict[str, Any] = {
        "200": _answer("Success." if operation.schema else "The stream.", content, headers)
    }
    if operation.has_ranges:
        if operation.method != "head":
            responses["206"] = _answer(
                "The range of the disk, or several ranges.",
                {operations.RAW: {"schema": _BINARY}, "multipart/byteranges": {"schema": _BINARY}},
                {**headers, "Content-Range": {"schema": _TEXT}},
            )
            responses["416"] = {"$ref": "#/components/responses/416"}
        responses["304"] = _answer("The client already has it.", {}, {"ETag": {"schema": _TEXT}})
    # Every query is checked, so each operation can fail with 422, even one without parameters.
    errors = {*operation.errors, 422} | (set() if operation.open_to_all else {401})
    return responses | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)
    }


def _answer(description: str, content: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if content:
        answer["content"] = content
    if headers:
        answer["headers"] = headers
    return answer


def _error(status: int) -> dict[str, Any]:
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": _TEXT}
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = {"schema": {"type": "string", "pattern": "^[0-9]+$"}}
    elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        headers["Content-Range"] = {"schema": _TEXT}
    return _answer(_ERRORS[status], {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}, headers)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _without_required(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of an object that need not have the property `name`."""
    return {**schema, "required": [each for each in schema["required"] if each != name]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_INTEGER = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number", "minimum": 0}
_TIME = {"type": "string", "description": "UTC, for example 2020-06-30T20:00:00Z"}
_MAYBE = _or_null(_TEXT)

#: The documents of docs/json.md. Keys are only ever added.
_SCHEMAS: dict[str, Any] = {
    "Error": _object(error=_object(type=_TEXT, message=_TEXT, advice=_TEXT)),
    "Health": _object(ok={"type": "boolean"}),
    "Description": {"type": "object", "required": ["openapi"]},
    "Points": _object(points={"type": "array", "items": _ref("Point")}),
    "PointAndChain": _object(
        point=_ref("Point"),
        chain={"type": "array", "items": _ref("Point")},
        damage={"type": "array", "items": {"type": "object"}},
    ),
    "Point": _object(
        backup_id=_TEXT,
        vm=_object(id=_TEXT, name=_MAYBE),
        kind={"type": "string", "enum": ["full", "incremental", "synthetic"]},
        reason=_MAYBE,
        point=_TIME,
        lo=_TIME,
        parent_id=_MAYBE,
        checkpoint_id=_MAYBE,
        from_checkpoint_id=_MAYBE,
        mode=_TEXT,
        consistency=_TEXT,
        disks={"type": "array", "items": _ref("Disk")},
        left_out={"type": "array", "items": _object(disk_id=_TEXT, name=_TEXT, reason=_TEXT, cause=_TEXT)},
        complete={"type": "boolean"},
        missing_disks={"type": "array", "items": _object(disk_id=_TEXT, name=_TEXT, reason=_TEXT)},
        stored_bytes=_INTEGER,
        duration_s=_NUMBER,
        proven=_or_null(_object(time=_TIME, ok={"type": "boolean"})),
        damaged={"type": "boolean"},
        note=_MAYBE,
        hold=_or_null(_object(until=_or_null(_TIME))),
        stands_for=_MAYBE,
        unusual={"type": "array", "items": _object(what=_TEXT, value=_NUMBER, usual=_NUMBER)},
        removed_at=_or_null(_TIME),
        swept_after=_or_null(_TIME),
    ),
    "Disk": _without_required(
        _object(
            disk_id=_TEXT,
            name=_MAYBE,
            stream_id=_TEXT,
            kind=_TEXT,
            reason=_MAYBE,
            size=_INTEGER,
            data_bytes=_INTEGER,
            zero_bytes=_INTEGER,
            stored_bytes=_INTEGER,
            extents=_INTEGER,
            note=_MAYBE,
            external=_MAYBE,
            changes=_MAYBE,
            shared={
                "type": "array",
                "description": "Only of the point of /points/{point}.",
                "items": _object(vm=_or_null(_object(id=_TEXT, name=_MAYBE)), disk_id=_TEXT, bytes=_INTEGER),
            },
        ),
        "shared",
    ),
    "Restored": _object(
        restored=_object(
            disk_id=_MAYBE,
            name=_MAYBE,
            size=_INTEGER,
            bytes_written=_INTEGER,
            bytes_zeroed=_INTEGER,
            bytes_skipped=_INTEGER,
        )
    ),
}
