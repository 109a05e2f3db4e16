# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr serve`."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr import times
from pitr.cli import point_options, serve_options
from pitr.cli.display.output import take_standard_output
from pitr.cli.options import AtOption, Common, DisksOption, OnlyVMArgument, PointOption, with_common
from pitr.cli.serve_options import HostOption
from pitr.errors import Interrupted, UsageError
from pitr.units import MIB, human_size, parse_size

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from pitr.jobs.find import Choice
    from pitr.jobs.serve.over_nbd import Served


@with_common()
def serve(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    disk: DisksOption = None,
    socket_path: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            metavar="PATH",
            help="Listen on this unix socket; left out, without --port: one in a private folder.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="Listen on this TCP port; 0 is any free one."
        ),
    ] = None,
    host: HostOption = None,
    overlay: Annotated[
        str | None,
        typer.Option(
            "--overlay",
            metavar="FILE",
            help="Also make this qcow2 file over the disk, that a VM can boot from and write to; for several disks a "
            "folder.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="COMMAND",
            help="Run this in a shell, with $NBD_URI (for several disks $NBD_URIS) and $NBD_SOCKET, and end with it.",
        ),
    ] = None,
    cache_size: Annotated[
        str,
        typer.Option("--cache-size", metavar="SIZE", help="Memory for decompressed data, for all disks."),
    ] = "256m",
) -> None:
    """Serve the disks at a point as read-only NBD exports. No restore is needed.

    The URIs are printed on standard error, or in the JSON document. Each disk has an export of its name and one of
    its id; a disk that is alone is the default export too. Ctrl-C or SIGTERM ends it, with exit code 0; with --run
    the exit code is the command's, or 128+N where signal N has ended both. No point of the VM can be pruned meanwhile.

    Examples: pitr serve web1 --at 2020-06-30T22:00;
    pitr serve web1 --at now --disk system --run 'guestfish --ro --format=raw -a "nbd:///?socket=$NBD_SOCKET" -i';
    pitr serve web1 --at now --disk system --overlay web1.qcow2
    """
    from pitr.jobs import find
    from pitr.jobs.serve import over_nbd as job
    from pitr.jobs.serve import overlays
    from pitr.system.signals import Signals

    cache_bytes = _cache_bytes(cache_size)
    _check_place(socket_path, port, host)
    asked = point_options.exactly_one("serving", at, point)
    with common.repository() as repository, ExitStack() as stack:
        chosen = asked.find(repository, vm)
        streams = find.some_streams_of(chosen.backup, disk or ())
        files = overlays.overlay_paths(overlay, streams) if overlay is not None else {}
        if socket_path is None and port is None and overlay is not None:
            socket_path = overlays.socket_beside(files)
        listener = _listen(common, stack, socket_path, port, host)
        served = stack.enter_context(
            job.serving(repository, chosen.backup, streams, listener, cache_bytes=cache_bytes)
        )
        if overlay is not None:
            overlays.make_overlays(files, served)
        if run is not None:
            take_standard_output()
            serve_options.tell(common.out, *_told(chosen, served, files))
            raise typer.Exit(_run(run, served))
        with serve_options.until_stopped(common.out) as ready:
            # Before anybody is told, who may send a signal at once.
            with Signals() as signals:
                ready(*_told(chosen, served, files))
                while (signum := signals.wait()) is None:
                    pass
            raise Interrupted(signum)


def _cache_bytes(text: str) -> int:
    from pitr.system import machine

    size, most = parse_size(text), machine.memory_bytes()
    if size < MIB:
        raise UsageError(f"--cache-size is at least 1m, not {text}", "A frame of a disk has 1 MiB.")
    if size > most:
        raise UsageError(
            f"--cache-size is {text}, and this machine, or what pitr may take of it, has {human_size(most)}",
            "Give it what is free; 256m is enough for most.",
        )
    return size


def _check_place(socket_path: Path | None, port: int | None, host: str | None) -> None:
    if socket_path is not None and port is not None:
        raise UsageError("--socket and --port exclude each other")
    if host is not None and port is None:
        raise UsageError("--host goes with --port")


def _listen(
    common: Common, stack: ExitStack, socket_path: Path | None, port: int | None, host: str | None
) -> socket.socket:
    from tempfile import TemporaryDirectory

    from pitr.system import sockets

    if port is not None:
        listener = stack.enter_context(sockets.tcp_listener(host or serve_options.LOOPBACK, port))
        serve_options.warn_of_others(
            common.out, listener, "the disks: NBD here has neither encryption nor authentication"
        )
        return listener
    if socket_path is None:
        socket_path = Path(stack.enter_context(TemporaryDirectory(prefix="pitr-"))) / "nbd"
    return stack.enter_context(sockets.unix_listener(socket_path))


def _run(command: str, served: Sequence[Served]) -> int:
    from pitr.nbd.client import parse_url
    from pitr.system.shell import run_shell

    uris = [disk.uri for disk in served]
    environment = {"NBD_URI": uris[0], "NBD_URIS": " ".join(uris)}
    address, _ = parse_url(uris[0])
    if isinstance(address, str):
        # Some programs want other URIs: libguestfs knows no nbd+unix.
        environment["NBD_SOCKET"] = address
    return run_shell(command, environment)


def _told(
    chosen: Choice, served: Sequence[Served], overlays: Mapping[str, Path]
) -> tuple[dict[str, Any], list[str]]:
    """The document, and the same for people."""
    document = {
        "serve": {
            "backup_id": chosen.backup.backup_id,
            "point": times.to_text(chosen.backup.point),
            "age_s": chosen.age_s,
            "next_point": times.to_text(chosen.next_point) if chosen.next_point else None,
            "disks": [
                {
                    "disk_id": disk.disk_id,
                    "name": disk.name,
                    "export": disk.export,
                    "size": disk.size,
                    "uri": disk.uri,
                    "overlay": str(overlays[disk.disk_id]) if overlays else None,
                }
                for disk in served
            ],
        }
    }
    lines = [point_options.in_words(chosen)]
    lines += [f"disk {disk.name} ({human_size(disk.size)}): {disk.uri}" for disk in served]
    if overlays:
        drives = " ".join(
            f"-drive file={shlex.quote(str(path))},format=qcow2,if=virtio" for path in overlays.values()
        )
        lines.append(
            f"boot it, while this runs, with: qemu-system-x86_64 -accel kvm -accel tcg -m 2048 {drives}"
        )
    return document, lines
