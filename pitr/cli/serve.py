# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr serve`."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr import times
from pitr.cli import choice
from pitr.cli.options import Common, with_common
from pitr.cli.output import take_standard_output
from pitr.errors import Interrupted, UsageError
from pitr.units import MIB, human_size, parse_size

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from pitr.jobs.choosing import Choice
    from pitr.jobs.serve import Served

_STOP_TIMEOUT_S = 10.0


@with_common()
def serve(
    common: Common,
    vm: Annotated[
        str | None,
        typer.Argument(metavar="[VM]", help="Name or id; left out: the only VM in the repository."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="The newest point at or before TIME (local time, or …Z)."),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="This point: a backup id, or the beginning of one."),
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", metavar="DISK", help="Only this disk, by name or id; repeatable."),
    ] = None,
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
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Address for --port (127.0.0.1). There is no encryption and no password: whoever reaches it reads.",
        ),
    ] = None,
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
    """Serve the disks at a point as read-only NBD exports, until it is stopped: no restore needed.

    The URIs are printed on standard error, or in the JSON document. Each disk has an export of its name and one of
    its id; a disk that is alone is the default export too. Ctrl-C or SIGTERM ends it, with exit code 0; with --run
    the exit code is the command's. No point of the VM can be pruned meanwhile.

    Examples: pitr serve web1 --at 2020-06-30T22:00;
    pitr serve web1 --at now --disk system --run 'guestfish --ro --format=raw -a "nbd:///?socket=$NBD_SOCKET" -i';
    pitr serve web1 --at now --disk system --overlay web1.qcow2
    """
    from pitr.jobs import choosing, serve_overlays
    from pitr.jobs import serve as job

    cache_bytes = parse_size(cache_size)
    if cache_bytes < MIB:
        raise UsageError(f"--cache-size is at least 1m, not {cache_size}", "A frame of a disk has 1 MiB.")
    _check_place(socket_path, port, address)
    with common.repository() as repository, ExitStack() as stack:
        chosen = choice.choose(repository, "serving", vm, at, point)
        streams = choosing.streams_of(chosen.backup, disk or ())
        if not streams:
            raise UsageError(f"the point {chosen.backup.backup_id} holds no disks")
        overlays = serve_overlays.overlay_paths(overlay, streams) if overlay is not None else {}
        if socket_path is None and port is None and overlay is not None:
            socket_path = serve_overlays.socket_beside(overlays)
        listener = _listen(common, stack, socket_path, port, address)
        served = stack.enter_context(
            job.serving(repository, chosen.backup, streams, listener, cache_bytes=cache_bytes)
        )
        if overlay is not None:
            serve_overlays.make_overlays(overlays, served)
        try:
            if run is not None:
                take_standard_output()
            _show(common, chosen, served, overlays)
            code = _run(run, served) if run is not None else _wait()
        except Interrupted:
            if run is not None:
                raise
            code = 0
    raise typer.Exit(code)


def _check_place(socket_path: Path | None, port: int | None, address: str | None) -> None:
    if socket_path is not None and port is not None:
        raise UsageError("--socket and --port exclude each other")
    if address is not None and port is None:
        raise UsageError("--address goes with --port")


def _listen(
    common: Common, stack: ExitStack, socket_path: Path | None, port: int | None, address: str | None
) -> socket.socket:
    from tempfile import TemporaryDirectory

    from pitr.nbd_server import listening

    if port is not None:
        listener = stack.enter_context(listening.tcp_listener(address or "127.0.0.1", port))
        if not listening.is_loopback(listener):
            common.out.notify(
                "warning: whoever reaches this address and port can read the disks: NBD here has neither "
                "encryption nor authentication"
            )
        return listener
    if socket_path is None:
        socket_path = Path(stack.enter_context(TemporaryDirectory(prefix="pitr-"))) / "nbd"
    return stack.enter_context(listening.unix_listener(socket_path))


def _wait() -> int:
    """Wait for the signal that ends it."""
    import threading

    threading.Event().wait()
    return 0


def _run(command: str, served: Sequence[Served]) -> int:
    """Run the command and return its exit code. A signal is passed on to it before it ends pitr as well."""
    import contextlib
    import signal
    import subprocess

    from pitr.nbd import parse_url
    from pitr.process import start_shell

    uris = [disk.uri for disk in served]
    environment = {"NBD_URI": uris[0], "NBD_URIS": " ".join(uris)}
    address, _ = parse_url(uris[0])
    if isinstance(address, str):
        # Some programs want other URIs: libguestfs knows no nbd+unix.
        environment["NBD_SOCKET"] = address
    process = start_shell(command, environment)
    try:
        code = process.wait()
    except Interrupted as error:
        # Ctrl-C on a terminal has reached the command too.
        if error.signum != signal.SIGINT:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return code if code >= 0 else 128 - code


def _show(common: Common, chosen: Choice, served: Sequence[Served], overlays: Mapping[str, Path]) -> None:
    out = common.out
    if out.json:
        out.document(
            {
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
            },
            one_line=True,
        )
        return
    out.notify(choice.in_words(chosen))
    for disk in served:
        out.notify(f"disk {disk.name} ({human_size(disk.size)}): {disk.uri}")
    if overlays:
        drives = " ".join(
            f"-drive file={shlex.quote(str(path))},format=qcow2,if=virtio" for path in overlays.values()
        )
        out.notify(
            f"boot it, while this runs, with: qemu-system-x86_64 -accel kvm -accel tcg -m 2048 {drives}"
        )
