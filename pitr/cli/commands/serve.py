# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr serve`."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli import point_options, serve_options
from pitr.cli.cache_options import CacheDir, CacheDirOption, CacheDirSizeOption
from pitr.cli.display.output import take_standard_output
from pitr.cli.options import (
    AtOption,
    Common,
    DisksOption,
    NewestGoodOption,
    OnlyVMArgument,
    PointOption,
    with_common,
)
from pitr.cli.serve_options import HostOption
from pitr.errors import Interrupted, UsageError
from pitr.jobs import find
from pitr.jobs.find import Choice
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.serve import over_nbd as job
from pitr.jobs.serve import overlays
from pitr.jobs.serve.over_nbd import Served
from pitr.nbd.client import parse_url
from pitr.system import machine, sockets
from pitr.system.shell import run_shell
from pitr.system.signals import Signals
from pitr.system.target_path import given_path
from pitr.units import MIB, human_size, parse_size

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="Listen on this unix socket. Default, without --port: a socket in a private folder.",
        parser=given_path("--socket"),
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="N", min=0, max=65535, help="Listen on this TCP port; 0 takes any free one."
    ),
]
OverlayOption = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        metavar="FILE",
        help="Create this qcow2 file over the disk, so that a VM can boot from it and write to it. For several "
        "disks, name a folder.",
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="COMMAND",
        help="Run this command in a shell with $NBD_URI (for several disks $NBD_URIS) and $NBD_SOCKET, and exit "
        "when it exits.",
    ),
]
CacheSizeOption = Annotated[
    str,
    typer.Option(
        "--cache-size", metavar="SIZE", help="Memory for decompressed data, for all disks together."
    ),
]


@with_common(moves_data=True)
def serve(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: DisksOption = None,
    socket_path: SocketOption = None,
    port: PortOption = None,
    host: HostOption = None,
    overlay: OverlayOption = None,
    run: RunOption = None,
    cache_size: CacheSizeOption = "256m",
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """Serve the disks at a point as read-only NBD exports. You do not need to restore them.

    pitr prints the URIs on standard error, or in the JSON document. Each disk has an export with its name and one with
    its id; a single disk is the default export, too. Ctrl-C or SIGTERM stops the command, with exit code 0. With --run
    it exits with the code of COMMAND, or with 128+N if signal N stopped both. Until it exits, no point of the VM can
    be pruned. Small random reads of data that is in the folder of --cache-dir are many times faster, most for a
    repository in a bucket; 'nbdcopy URI null:' fills the folder in advance.

    Examples: pitr serve web1 --at 2020-06-30T22:00;
    pitr serve web1 --at now --disk system --run 'guestfish --ro --format=raw -a "nbd:///?socket=$NBD_SOCKET" -i';
    pitr serve web1 --at now --disk system --overlay web1.qcow2;
    pitr serve web1 --at now --cache-dir /var/cache/pitr --cache-dir-size 50g
    """
    listen = _ServeAddress(socket_path, port, host)
    listen.check()
    cache_bytes = _cache_bytes(cache_size)
    cache = CacheDir(cache_dir, cache_dir_size)
    asked = point_options.exactly_one("serving", at, point, newest_good=newest_good)
    with common.repository() as repository, ExitStack() as stack:
        wanted = GoodPoint(disk or (), check="serve")
        chosen = asked.find_good(repository, vm, wanted, common.out.notify)
        point_options.warn(common.out, chosen, disk or ())
        streams = find.some_streams_of(chosen.backup, disk or (), repository)
        files = overlays.overlay_paths(overlay, streams) if overlay is not None else {}
        folder = stack.enter_context(cache.opened(common, repository))
        listener = listen.listener(common, stack, files)
        served = stack.enter_context(
            job.serving(repository, chosen.backup, streams, listener, cache_bytes=cache_bytes, folder=folder)
        )
        if overlay is not None:
            overlays.make_overlays(files, served)
        if run is not None:
            take_standard_output()
            serve_options.tell(common.out, *_announcement(chosen, served, files))
            raise typer.Exit(_run(run, served))
        _wait_for_signal(common, *_announcement(chosen, served, files))


@dataclass(frozen=True, slots=True)
class _ServeAddress:
    """Where the exports are served."""

    socket_path: Path | None
    port: int | None
    host: str | None

    def check(self) -> None:
        if self.socket_path is not None and self.port is not None:
            raise UsageError("--socket and --port exclude each other")
        if self.host is not None and self.port is None:
            raise UsageError("--host goes with --port")

    def listener(self, common: Common, stack: ExitStack, files: Mapping[str, Path]) -> socket.socket:
        """Open the socket until `stack` closes; beside the overlays `files`, if no other place is named."""
        if self.port is not None:
            listener = stack.enter_context(
                sockets.tcp_listener(self.host or serve_options.LOOPBACK, self.port)
            )
            serve_options.warn_of_others(
                common.out, listener, "the disks: this NBD server has neither encryption nor authentication"
            )
            return listener
        path = self.socket_path
        if path is None and files:
            path = overlays.socket_beside(files)
        if path is None:
            path = Path(stack.enter_context(TemporaryDirectory(prefix="pitr-"))) / "nbd"
        return stack.enter_context(sockets.unix_listener(path))


def _cache_bytes(text: str) -> int:
    size, most = parse_size(text), machine.memory_bytes()
    if size < MIB:
        raise UsageError(
            f"--cache-size must be at least 1m, not {text}", "A frame holds up to 1 MiB of a disk."
        )
    if size > most:
        raise UsageError(
            f"--cache-size is {text}, but pitr can use only {human_size(most)} of memory",
            "Give a size that is free; 256m is enough for most uses.",
        )
    return size


def _wait_for_signal(common: Common, document: dict[str, Any], lines: Sequence[str]) -> None:
    with serve_options.until_stopped(common.out) as ready:
        # A client may send a signal as soon as it reads the announcement, so take the signals over first.
        with Signals() as signals:
            ready(document, lines)
            while (signum := signals.wait()) is None:
                pass
        raise Interrupted(signum)


def _run(command: str, served: Sequence[Served]) -> int:
    uris = [disk.uri for disk in served]
    environment = {"NBD_URI": uris[0], "NBD_URIS": " ".join(uris)}
    address, _ = parse_url(uris[0])
    if isinstance(address, str):
        # libguestfs does not know the scheme nbd+unix, so it needs the socket itself.
        environment["NBD_SOCKET"] = address
    return run_shell(command, environment)


def _announcement(
    chosen: Choice, served: Sequence[Served], files: Mapping[str, Path]
) -> tuple[dict[str, Any], list[str]]:
    """Return the JSON document and the lines that announce the exports. `files` are the overlays by disk id."""
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
                    "overlay": str(files[disk.disk_id]) if files else None,
                }
                for disk in served
            ],
        }
    }
    lines = [point_options.in_words(chosen)]
    lines += [f"disk {disk.name} ({human_size(disk.size)}): {disk.uri}" for disk in served]
    if files:
        drives = " ".join(
            f"-drive file={shlex.quote(str(path))},format=qcow2,if=virtio" for path in files.values()
        )
        lines.append(f"to boot it while this runs: qemu-system-x86_64 -accel kvm -accel tcg -m 2048 {drives}")
    return document, lines
