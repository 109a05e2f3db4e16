# SPDX-License-Identifier: GPL-2.0-or-later
"""Try out and measure the object store of a repository, and say why it is slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

from pitr.errors import PitrError
from pitr.jobs.doctor_check import Check
from pitr.repository import location as locations
from pitr.repository.location import Location
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.probe import Speed
from pitr.units import human_size

#: A server that sends header and body apart, without TCP_NODELAY, waits for the delayed acknowledgement of the header,
#: which Linux sends after 40 ms. The size of an object, which has no body, does not wait.
_DELAYED_S = (0.035, 0.060)
#: A request that takes longer makes backups and lists slow.
_SLOW_REQUEST_S = 0.2
#: Less than this much of a second's data, and a backup waits for the store.
_SLOW_BYTES = 20 << 20


def trial(location: Location, lock: Lock | None) -> Iterator[Check]:
    """Check what 'pitr init' checks, and measure. The objects of the trial are gone after it."""
    try:
        from pitr.repository.store.buckets import try_out  # noqa: PLC0415 - a folder needs no library for S3

        with closing(locations.opened(location, locations.scratch_state(), lock)) as store:
            speed = try_out(store)
    except PitrError as error:
        yield Check("object store", "failed", error.message, error.advice)
        return
    yield Check("object store", "ok", "it does what a repository relies on")
    yield speed_check(speed)


def speed_check(speed: Speed) -> Check:
    """Return the figures, and a warning with the reason if one of them is bad."""
    seconds = {name: round(value, 6) for name, value in asdict(speed).items() if name.endswith("_s")}
    measured = seconds | {
        "upload_bytes_per_s": int(speed.upload),
        "download_bytes_per_s": int(speed.download),
    }
    figures = (
        f"a request takes {_ms(speed.head_s)} (read {_ms(speed.read_s)}, write {_ms(speed.write_s)}, list "
        f"{_ms(speed.list_s)}); upload {human_size(int(speed.upload))}/s, download "
        f"{human_size(int(speed.download))}/s"
    )
    reason = _why_slow(speed)
    if reason is None:
        return Check("store speed", "ok", figures, "", measured)
    why, advice = reason
    return Check("store speed", "warning", f"{figures}. {why}", advice, measured)


def _why_slow(speed: Speed) -> tuple[str, str] | None:
    """Return why the store is slow, and what to do; None if it is not."""
    low, high = _DELAYED_S
    if low <= speed.read_s - speed.head_s <= high:
        return (
            "Each read waits 40 ms for a delayed acknowledgement of TCP",
            "On Ceph, add tcp_nodelay=1 to rgw_frontends and restart the gateway. On other servers and proxies, switch "
            "TCP_NODELAY on.",
        )
    if speed.head_s > _SLOW_REQUEST_S:
        return (
            "Each request takes long, whatever its size",
            "Use a server or a region that is closer, and look for a proxy in between.",
        )
    if min(speed.upload, speed.download) < _SLOW_BYTES:
        return (
            "The transfer of data is slow",
            "Check the network to the store. Backups and restores take as long as their data needs at this speed.",
        )
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
