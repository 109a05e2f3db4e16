# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of the gateway, as an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pitr.errors import PitrError, UsageError
from pitr.gateway import images, openapi, operations, points
from pitr.gateway.answers import Document, Empty, RequestBody, Streaming, failure
from pitr.gateway.connection import let_in
from pitr.gateway.failures import MethodNotAllowed, NotConfigured, NotFound, OutsideOfDisk, Unauthorized
from pitr.gateway.operations import Operation
from pitr.gateway.ranges import ByteRange, Multipart, wanted_parts
from pitr.gateway.token import Token
from pitr.gateway.work import BlockingWork
from pitr.jobs.export import ExportFormat
from pitr.ovirt.engine import Engine
from pitr.ovirt.imageio.extents import Context
from pitr.repository.location import Location
from pitr.repository.stream_sink import Compression
from pitr.text import printable

Query = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The engine and the repository that the gateway serves. One of them may be None."""

    work: BlockingWork
    token: Token
    engine: Engine | None
    repository: Location | None
    workers: int

    def app(self) -> ASGIApp:
        """Return the application."""
        handlers = _Handlers(self)
        by_path: dict[str, dict[str, tuple[Operation, _Handler]]] = {}
        for operation in operations.OPERATIONS:
            handler = handlers.of(operation.id)
            by_path.setdefault(operation.path, {})[operation.method.upper()] = (operation, handler)
        routes = [Route(path, _Resource(self.work, methods)) for path, methods in by_path.items()]
        starlette = Starlette(routes=routes, exception_handlers={404: _not_found})
        starlette.router.redirect_slashes = False
        open_paths = frozenset(operation.path for operation in operations.OPERATIONS if operation.open_to_all)
        return _Guard(starlette, self.token, open_paths)


_Handler = Callable[[Request, Query], Awaitable[ASGIApp]]


async def _not_found(request: Request, error: Exception) -> Any:
    return failure(NotFound("unknown path", "GET /openapi.json lists all paths."))


class _Guard:
    """Refuses every request without the token, except to paths that are open to all."""

    def __init__(self, app: ASGIApp, token: Token, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            tokens = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(tokens) != 1 or not self._token.allows(tokens[0].decode("latin-1")):
                refused = Unauthorized(
                    "the bearer token is missing or wrong", "Send the header 'Authorization: Bearer TOKEN'."
                )
                await failure(refused)(scope, receive, send)
                return
            let_in(scope)
        await self._app(scope, receive, send)


class _Resource:
    """All methods of one path."""

    def __init__(self, work: BlockingWork, methods: Mapping[str, tuple[Operation, _Handler]]) -> None:
        self._work = work
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp
        methods = self._methods.get(scope["method"])
        if methods is None:
            allowed = ", ".join(self._methods)
            refused = failure(
                MethodNotAllowed(f"this path does not support {scope['method'][:20]}", f"Use {allowed}.")
            )
            await refused.with_header("allow", allowed)(scope, receive, send)
            return
        operation, handler = methods
        request = Request(scope, receive)
        try:
            query = operation.query(_pairs(scope["query_string"]))
            answer = await handler(request, query)
        except PitrError as error:
            answer = failure(error)
        except Exception as error:  # noqa: BLE001 - a defect, reported as one
            answer = failure(self._work.report(_name(request), error))
        await answer(scope, receive, send)


class _Handlers:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._work = gateway.work

    def of(self, operation_id: str) -> _Handler:
        handlers: dict[str, _Handler] = {
            "getHealth": self.health,
            "getDescription": self.description,
            "listPoints": self.list_points,
            "getPoint": self.show_point,
            "getPointDisk": self.point_disk,
            "headPointDisk": self.point_disk,
            "getImage": self.get_image,
            "putImage": self.put_image,
        }
        return handlers[operation_id]

    async def health(self, request: Request, query: Query) -> ASGIApp:
        return Document({"ok": True})

    async def description(self, request: Request, query: Query) -> ASGIApp:
        return Document(openapi.document())

    async def list_points(self, request: Request, query: Query) -> ASGIApp:
        path = self._repository()
        return Document(await self._work.quick(lambda: points.list_points(path, query["vm"])))

    async def show_point(self, request: Request, query: Query) -> ASGIApp:
        path, point = self._repository(), request.path_params["point"]
        return Document(await self._work.quick(lambda: points.show_point(path, point)))

    async def get_image(self, request: Request, query: Query) -> ASGIApp:
        engine, workers = self._engine(), self._gateway.workers
        image = _image_id(request)
        compression = cast(Compression, query["compress"])
        self._work.check_free()

        def job(write: Callable[[bytes], object]) -> None:
            images.send_image(
                engine,
                image,
                write,
                context=cast(Context, query["context"]),
                backup_id=query["backup"],
                compression=compression,
                workers=workers,
            )

        return Streaming(self._work, _name(request), job, _headers("sparse", compression, image), status=200)

    async def put_image(self, request: Request, query: Query) -> ASGIApp:
        engine, workers = self._engine(), self._gateway.workers
        image = _image_id(request)
        self._work.check_free()
        return RequestBody(
            self._work,
            _name(request),
            lambda body: images.receive_image(
                engine,
                image,
                cast(Any, body),
                new=query["new"] == "true",
                incremental=query["incremental"] == "true",
                workers=workers,
            ),
        )

    async def point_disk(self, request: Request, query: Query) -> ASGIApp:
        path, workers = self._repository(), self._gateway.workers
        wanted = await self._work.quick(
            lambda: points.find_point_disk(
                path,
                request.path_params["point"],
                request.path_params["disk"],
                format=ExportFormat(query["format"] or ExportFormat.SPARSE),
                since=query["since"],
                compression=cast(Compression, query["compress"]),
            )
        )
        headers = _headers(wanted.format, wanted.compression, wanted.stream.disk_id)
        if wanted.format == "raw":
            return self._raw(request, path, wanted, headers)
        if request.method == "HEAD":
            return Empty(200, headers)
        self._work.check_free()
        return Streaming(
            self._work,
            _name(request),
            lambda write: points.send_stream(path, wanted, write, workers=workers),
            headers,
        )

    def _raw(
        self, request: Request, path: Location, wanted: points.PointDisk, headers: dict[str, str]
    ) -> ASGIApp:
        size, workers = wanted.stream.size, self._gateway.workers
        headers |= {"accept-ranges": "bytes", "etag": wanted.etag, "cache-control": "private"}
        if _names(request.headers.get("if-none-match"), wanted.etag):
            return Empty(304, {"etag": wanted.etag, "cache-control": "private"})
        # A range of a different entity is useless to a client that holds a part of the old one.
        if_range = request.headers.get("if-range")
        ranged = request.headers.get("range") if if_range in (None, wanted.etag) else None
        parts = wanted_parts(ranged if request.method == "GET" else None, size)
        if parts == "none":
            outside = OutsideOfDisk(
                f"the ranges are outside the disk, which has {size} bytes, or too many or too long for one answer"
            )
            return failure(outside).with_header("content-range", f"bytes */{size}")
        if request.method != "HEAD":
            self._work.check_free()
        if parts != "all" and len(parts) > 1:
            several = Multipart(parts, headers["content-type"])
            headers |= {"content-type": several.media_type, "content-length": str(several.length)}
            return Streaming(
                self._work,
                _name(request),
                lambda write: points.send_parts(path, wanted, write, several, workers=workers),
                headers,
                status=206,
            )
        status, part = 200, ByteRange(0, size, size)
        if parts != "all":
            status, part = 206, parts[0]
            headers |= {"content-range": part.content_range}
        headers |= {"content-length": str(part.end - part.start)}
        if request.method == "HEAD":
            return Empty(status, headers)
        return Streaming(
            self._work,
            _name(request),
            lambda write: points.send_range(path, wanted, write, part, workers=workers),
            headers,
            status=status,
        )

    def _engine(self) -> Engine:
        if self._gateway.engine is None:
            raise NotConfigured("this gateway has no engine", "Start it with --engine-url.")
        return self._gateway.engine

    def _repository(self) -> Location:
        if self._gateway.repository is None:
            raise NotConfigured("this gateway has no repository", "Start it with --repo.")
        return self._gateway.repository


_MEDIA_TYPES = {
    "sparse": (operations.SPARSE, "sparse"),
    "raw": (operations.RAW, "raw"),
    "rbd-diff": (operations.RBD_DIFF, "rbd-diff"),
    "rbd-diff-v2": (operations.RBD_DIFF, "rbd-diff-v2"),
}
_IMAGE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _headers(stream_format: str, compression: Compression, name: str) -> dict[str, str]:
    media_type, suffix = _MEDIA_TYPES[stream_format]
    if compression == "zstd":
        media_type, suffix = operations.ZSTD, f"{suffix}.zst"
    file_name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return {
        "content-type": media_type,
        "content-disposition": f'attachment; filename="{file_name}.{suffix}"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }


def _image_id(request: Request) -> str:
    image: str = request.path_params["image"]
    if _IMAGE_ID.fullmatch(image) is None:
        raise NotFound("this is not the id of a transfer or disk")
    return image


def _names(header: str | None, etag: str) -> bool:
    """Return whether If-None-Match names the entity tag."""
    given = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return "*" in given or etag in given


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16
        )
    except (UnicodeDecodeError, ValueError):
        raise UsageError("the query must have the form NAME=VALUE&…") from None


def _name(request: Request) -> str:
    """Return the name of a request for the log."""
    client = request.client.host if request.client is not None else "unknown"
    return printable(f"{client} {request.method} {request.url.path[:200]}")
