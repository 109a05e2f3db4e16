# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr open`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli import boot_options, point_options, serve_options
from pitr.cli.boot_options import MemoryOption
from pitr.cli.cache_options import CacheDir, CacheDirOption, CacheDirSizeOption
from pitr.cli.options import (
    AtOption,
    Common,
    NewestGoodOption,
    OnlyVMArgument,
    PointOption,
    with_common,
)
from pitr.jobs import find
from pitr.jobs.boot import opened
from pitr.jobs.boot.opened import VncAddress
from pitr.jobs.boot.virtual_machine import Started, Wanted, started
from pitr.jobs.find import Choice
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.serve import overlays
from pitr.system.signals import Signals

HeadlessOption = Annotated[
    bool,
    typer.Option("--headless", help="Open no window: a VNC viewer on this machine shows the guest's screen."),
]
VncOption = Annotated[
    int | None,
    typer.Option(
        "--vnc",
        metavar="PORT",
        min=0,
        max=65535,
        help="With --headless: the port for VNC on 127.0.0.1, from 5900 on. Default: any free port. Every user of this "
        "machine can connect: it has no password.",
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="FILE",
        help="Keep what the guest writes in this qcow2 file, new or from an earlier 'pitr open' of the same point. For "
        "several disks, name a folder.",
    ),
]


@with_common(moves_data=True)
def open_(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    headless: HeadlessOption = False,
    vnc: VncOption = None,
    keep: KeepOption = None,
    memory: MemoryOption = None,
    cache_dir: CacheDirOption = None,
    cache_dir_size: CacheDirSizeOption = None,
) -> None:
    """Boot a point on this machine, in a window or for a VNC viewer.

    The guest runs in qemu over the disks as 'pitr serve' serves them, with the VM's firmware and kinds of disks, and
    without a network: it cannot disturb the VM that runs. What it writes is dropped at the end, or kept with --keep;
    the point itself never changes. The command exits when the guest shuts down, when you close its window, and after
    Ctrl-C or SIGTERM, with exit code 0. Until then, no point of the VM can be pruned.

    Examples: pitr open web1 --at 2020-06-30T22:00; pitr open web1 --at yesterday --headless --vnc 5901;
    pitr open web1 --point 1c2d3e4f --keep web1.qcow2; pitr open web1 --at now --cache-dir /var/cache/pitr
    """
    asked = point_options.exactly_one("opening", at, point, newest_good=newest_good)
    cache = CacheDir(cache_dir, cache_dir_size)
    memory_bytes = boot_options.memory(memory)
    screen = opened.screen_for(vnc, headless=headless)
    with common.repository() as repository, ExitStack() as stack:
        chosen = asked.find_good(repository, vm, GoodPoint((), check="serve"), common.out.notify)
        point_options.warn(common.out, chosen, ())
        streams = find.some_streams_of(chosen.backup, (), repository)
        files = overlays.overlay_paths(keep, streams, "--keep", may_exist=True) if keep is not None else None
        folder = stack.enter_context(cache.opened(common, repository))
        wanted = Wanted(memory_bytes=memory_bytes, screen=screen, keep=files, folder=folder)
        machine = stack.enter_context(started(repository, chosen.backup, streams, wanted))
        for note in machine.notes:
            common.out.notify(note)
        # A program may send a signal as soon as it reads the announcement, so take the signals over first.
        with Signals() as signals:
            document, lines = _announcement(chosen, machine, opened.vnc_address(machine), files or {})
            serve_options.tell(common.out, document, lines)
            opened.wait_for_end(machine, signals, common.out.notify)
            # Still here: timeout(1) sends each signal twice, and the second one must not end the cleanup.
            stack.close()
    if files:
        common.out.notify(_kept(chosen, keep or ""))


def _announcement(
    chosen: Choice, machine: Started, vnc: VncAddress | None, files: Mapping[str, Path]
) -> tuple[dict[str, Any], list[str]]:
    document = {
        "open": {
            "backup_id": chosen.backup.backup_id,
            "point": times.to_text(chosen.backup.point),
            "age_s": chosen.age_s,
            "next_point": times.to_text(chosen.next_point) if chosen.next_point else None,
            "accelerator": machine.accelerator,
            "vnc": {"host": vnc.host, "port": vnc.port} if vnc is not None else None,
            "disks": [
                {
                    "disk_id": disk.disk_id,
                    "name": disk.name,
                    "size": disk.size,
                    "overlay": str(files[disk.disk_id]) if files else None,
                }
                for disk in machine.served
            ],
        }
    }
    where = f"connect a VNC viewer to {vnc.host}:{vnc.port}" if vnc is not None else "it runs in a window"
    slow = " (emulated: this machine has no usable KVM)" if machine.accelerator == "tcg" else ""
    return document, [
        point_options.in_words(chosen),
        f"{where}{slow}",
        "running until the guest shuts down, Ctrl-C or SIGTERM",
    ]


def _kept(chosen: Choice, keep: str) -> str:
    return f"kept what the guest wrote in {keep}. To go on: pitr open --point {chosen.backup.backup_id} --keep {keep}"
