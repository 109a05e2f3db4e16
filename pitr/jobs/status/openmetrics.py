# SPDX-License-Identifier: GPL-2.0-or-later
"""The status as OpenMetrics.

All metrics are gauges without units of their own, so that the collector of text files of Prometheus' node_exporter,
which knows the older format only, reads them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from pitr import times
from pitr.jobs.status.report import Status
from pitr.jobs.status.vm_status import VMStatus
from pitr.text import printable

_Value = Callable[[VMStatus], float | None]


def _seconds(time: datetime | None) -> float | None:
    return time.timestamp() if time is not None else None


#: By name: the help, and the value of a VM; None if the VM has none.
METRICS: dict[str, tuple[str, _Value]] = {
    "pitr_vm_state": ("The VM's state: 0 ok, 1 warning, 2 critical.", lambda vm: vm.state),
    "pitr_vm_newest_good_timestamp_seconds": (
        "The time of the newest point without known damage. Absent if no point is whole.",
        lambda vm: _seconds(vm.points.newest_good.point if vm.points.newest_good is not None else None),
    ),
    "pitr_vm_max_age_seconds": (
        "The age of the newest good point at which the VM becomes critical. Absent if any age is fine.",
        lambda vm: vm.max_age.total_seconds() if vm.max_age is not None else None,
    ),
    "pitr_vm_proven_timestamp_seconds": (
        "When a check or a drill last read all data of a point and found it good. Absent if never.",
        lambda vm: _seconds(vm.points.proven_at),
    ),
    "pitr_vm_points": ("The number of points.", lambda vm: vm.points.count),
    "pitr_vm_damaged_points": ("The number of points with known damage.", lambda vm: len(vm.points.damaged)),
    "pitr_vm_incomplete_points": (
        "The number of points that lack disks of the VM.",
        lambda vm: len(vm.points.incomplete),
    ),
    "pitr_vm_chain_length": (
        "The number of points in the chain of the newest point.",
        lambda vm: vm.points.chain_length,
    ),
    "pitr_vm_changed_bytes": (
        "The changed bytes of the newest point; of a full all bytes of the disks.",
        lambda vm: vm.points.last.changed,
    ),
    "pitr_vm_usual_changed_bytes": (
        "The median of the changed bytes of earlier points. Absent with fewer than 7 points.",
        lambda vm: vm.points.last.usual_changed,
    ),
    "pitr_vm_stored_bytes": ("The stored bytes of the newest point.", lambda vm: vm.points.last.stored),
    "pitr_vm_usual_stored_bytes": (
        "The median of the stored bytes of earlier points. Absent with fewer than 7 points.",
        lambda vm: vm.points.last.usual_stored,
    ),
    "pitr_vm_unusual": (
        "1 if the newest point is unusual: its VM may have been encrypted.",
        lambda vm: int(bool(vm.points.last.unusual or vm.points.unusual_files)),
    ),
    "pitr_vm_retired": (
        "1 if the VM is retired: pitr does not expect new points of it.",
        lambda vm: int(vm.points.retired),
    ),
}


def text(status: Status | None) -> str:
    """Return the metrics, which end with `# EOF`; for None those of a repository that cannot be read."""
    registry = CollectorRegistry()
    registry.register(_Metrics(status))
    exposed: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return exposed.decode()


class _Metrics(Collector):
    def __init__(self, status: Status | None) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("pitr_up", "1 if pitr could read the repository.")
        up.add_metric([], int(self._status is not None))
        yield up
        time = GaugeMetricFamily(
            "pitr_status_timestamp_seconds", "When pitr last looked at the repository, or tried to."
        )
        time.add_metric([], (self._status.time if self._status is not None else times.now()).timestamp())
        yield time
        if self._status is None:
            return
        for name, (explained, value_of) in METRICS.items():
            family = GaugeMetricFamily(name, explained, labels=["vm", "vm_id"])
            for vm in self._status.vms:
                value = value_of(vm)
                if value is not None:
                    family.add_metric([printable(vm.vm.name), vm.vm.id], value)
            yield family
