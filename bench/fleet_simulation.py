# SPDX-License-Identifier: GPL-2.0-or-later
"""A night of a fleet in steps: which limit does it reach first? `python bench/fleet_simulation.py [--vms N] [--json]`.

Each VM waits for a slot of its host, starts a backup on the engine, waits until it is ready, moves its data and ends.
The bytes share the host, the storage domain and the repository; the requests share the engine, the repository's store
and the scheduler. Costs that this project measured are marked so; the others are assumptions to replace by your own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace

import numpy as np

STEP_S = 2.0
MB = 1e6
GB = 1e9


@dataclass(frozen=True)
class Site:
    """The machines, and what they cost."""

    vms: int = 10_000
    hosts: int = 300
    domains: int = 40
    night_h: float = 4.0
    slots: int = 4
    #: Data of a night. One VM in `full_every` takes a full backup.
    changed_gb: float = 2.0
    full_gb: float = 40.0
    full_every: int = 30
    #: Compressed bytes for each byte read.
    ratio: float = 0.5
    #: Assumptions: of one backup over the unix socket (measured: 670 MB/s on two cores), of a host, of a storage domain
    #: while its VMs work, and of what takes the compressed bytes.
    vm_mb_s: float = 300.0
    host_mb_s: float = 600.0
    domain_mb_s: float = 500.0
    repository_mb_s: float = 5000.0
    #: Measured: 30 requests to the engine for each backup, one more for each 2 s that it waits.
    engine_requests: int = 30
    #: Assumption: what an engine answers beside its other work.
    engine_per_s: float = 50.0
    #: Assumption: until a backup is ready, and until it has ended.
    phases_s: float = 20.0
    #: Measured: 19 requests to the store for each point of one disk. Assumption: what it takes.
    store_requests: int = 19
    store_per_s: float = 3500.0
    #: Measured: CPU of the scheduler for each task and its progress.
    task_ms: float = 4.7
    progress_ms: float = 0.3
    #: --cap; 0 for none.
    cap_domain: int = 0
    cap_engine: int = 0


@dataclass
class Night:
    """What happened. `use` has the share of each limit that was used on average until the last VM was done."""

    hours: float
    peak: int
    waited_min: float
    use: dict[str, float]

    @property
    def first(self) -> str:
        """The limit that was used most."""
        return max(self.use, key=lambda name: self.use[name])


def simulate(site: Site, seed: int = 1) -> Night:
    """Run one night to its end."""
    chance = np.random.default_rng(seed)
    count = site.vms
    host = chance.integers(0, site.hosts, count)
    domain = chance.integers(0, site.domains, count)
    data = chance.lognormal(0, 1, count) / np.exp(0.5) * site.changed_gb * GB
    full = np.arange(count) % site.full_every == 0
    data[full] = site.full_gb * GB * chance.lognormal(0, 0.5, full.sum()) / np.exp(0.125)
    left, requests = data.copy(), np.full(count, float(site.engine_requests))
    phase = np.full(count, site.phases_s)
    #: 0 waits for a slot, 1 is with the engine, 2 moves data, 3 is done.
    state = np.zeros(count, dtype=np.int8)
    began = np.zeros(count)
    used = dict.fromkeys(
        ("hosts", "slots", "storage domains", "repository", "engine", "store", "scheduler"), 0.0
    )
    steps, peak = 0, 0
    order = np.argsort(host, kind="stable")
    while (state < 3).any():
        steps += 1
        now = steps * STEP_S
        _admit(site, order, host, domain, state, began, now)
        with_engine, moving = state == 1, state == 2
        active = int(with_engine.sum() + moving.sum())
        peak = max(peak, active)
        # The engine: each backup asks; half of the requests come before the data.
        asking = with_engine & (requests > 0)
        offered = site.engine_per_s * STEP_S
        wanted = np.minimum(requests[asking], 4 * STEP_S)
        share = min(1.0, offered / wanted.sum()) if wanted.size else 1.0
        requests[asking] -= wanted * share
        phase[with_engine] -= STEP_S
        state[with_engine & (requests <= 0) & (phase <= 0)] = 2
        # The data: each step, all who move share what there is.
        rate = np.zeros(count)
        if moving.any():
            at, on = host[moving], domain[moving]
            rate[moving] = np.minimum.reduce(
                [
                    np.full(at.size, site.vm_mb_s * MB),
                    site.host_mb_s * MB / np.bincount(at, minlength=site.hosts)[at],
                    site.domain_mb_s * MB / np.bincount(on, minlength=site.domains)[on],
                ]
            )
            rate *= min(1.0, site.repository_mb_s * MB / max(1.0, rate.sum() * site.ratio))
        moved = np.minimum(rate * STEP_S, left)
        left -= moved
        done = moving & (left <= 0)
        state[done] = 3
        total = moved.sum()
        used["hosts"] += total / (site.host_mb_s * MB * STEP_S * site.hosts)
        used["storage domains"] += total / (site.domain_mb_s * MB * STEP_S * site.domains)
        used["repository"] += total * site.ratio / (site.repository_mb_s * MB * STEP_S)
        used["slots"] += active / (site.slots * site.hosts)
        used["engine"] += wanted.sum() * share / offered
        used["store"] += done.sum() * site.store_requests / (site.store_per_s * STEP_S)
        used["scheduler"] += (done.sum() * site.task_ms + active * STEP_S * site.progress_ms) / (
            1000 * STEP_S
        )
        if now > 7 * 24 * 3600:
            break
    return Night(
        steps * STEP_S / 3600,
        peak,
        float(np.mean(began)) / 60,
        {name: float(value / steps) for name, value in used.items()},
    )


def _admit(
    site: Site,
    order: np.ndarray,
    host: np.ndarray,
    domain: np.ndarray,
    state: np.ndarray,
    began: np.ndarray,
    now: float,
) -> None:
    """Let VMs begin that get a slot of their host and all limits, or none of them."""
    active = (state == 1) | (state == 2)
    on_host = np.bincount(host[active], minlength=site.hosts)
    on_domain = np.bincount(domain[active], minlength=site.domains)
    total = int(active.sum())
    waiting = order[state[order] == 0]
    # No more than the free slots of each host can begin.
    free = waiting[on_host[host[waiting]] < site.slots]
    for vm in free:
        if on_host[host[vm]] >= site.slots:
            continue
        if site.cap_domain and on_domain[domain[vm]] >= site.cap_domain:
            continue
        if site.cap_engine and total >= site.cap_engine:
            break
        state[vm] = 1
        began[vm] = now
        on_host[host[vm]] += 1
        on_domain[domain[vm]] += 1
        total += 1


def most_vms(site: Site) -> int:
    """Return how many VMs fit into the night."""
    low, high = 0, site.vms
    while simulate(replace(site, vms=high)).hours <= site.night_h and high < 100 * site.vms:
        low, high = high, high * 2
    while high - low > max(50, low // 50):
        middle = (low + high) // 2
        low, high = (
            (middle, high) if simulate(replace(site, vms=middle)).hours <= site.night_h else (low, middle)
        )
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Site()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    site = Site(**given)
    started = time.perf_counter()
    rows = []
    for what, variant in (
        ("as given", site),
        ("engine twice as fast", replace(site, engine_per_s=2 * site.engine_per_s)),
        ("storage domains twice as fast", replace(site, domain_mb_s=2 * site.domain_mb_s)),
        ("repository twice as fast", replace(site, repository_mb_s=2 * site.repository_mb_s)),
        ("8 slots a host", replace(site, slots=8)),
        ("--cap storage-domain=8", replace(site, cap_domain=8)),
        ("--cap engine=200", replace(site, cap_engine=200)),
    ):
        night = simulate(variant)
        rows.append({"what": what, **asdict(night), "first": night.first})
        if not as_json:
            use = ", ".join(
                f"{name} {share:.0%}" for name, share in sorted(night.use.items(), key=lambda x: -x[1])
            )
            print(f"{what}: {night.hours:.1f} h, at most {night.peak} at a time; {use}")
    fits = most_vms(site)
    if as_json:
        json.dump({"site": asdict(site), "nights": rows, "most_vms": fits}, sys.stdout, indent=1)
    else:
        print(f"{fits} VMs fit into {site.night_h:g} h. Simulated in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
