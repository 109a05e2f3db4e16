# SPDX-License-Identifier: GPL-2.0-or-later
"""A real scheduler and real workers: each VM gets one point, whatever dies."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from distributed import Client

from pitr.errors import BusyError
from pitr.fleet.caps import Cap, Caps, parse
from pitr.fleet.placement import Wanted, WorkerPlace, places, tiers
from pitr.fleet.verifications import added_up
from pitr.jobs.verify.stored_data import Scope, Verified
from pitr.lab import Lab
from pitr.repository.damage import Damage
from tests.support.fleet import TestFleet, fleet_of
from tests.support.lab import nothing_open, three_vms
from tests.support.lab_host import children_of
from tests.support.pitr import PATIENCE_S, Pitr, ended, wait_until
from tests.support.points import fake_stream


@pytest.fixture
def vms(lab: Lab) -> list[str]:
    return three_vms(lab)


def test_a_killed_worker_costs_no_vm_its_point(lab: Lab, pitr: Pitr, vms: list[str]) -> None:
    host = lab.engine.state.host_id
    with fleet_of(pitr) as fleet:
        fleet.scheduler()
        home = fleet.worker("--slots", "3", "--host-id", host)
        away = fleet.worker("--slots", "3")
        # Readiness takes its time: the kill comes when all wait for it.
        lab.engine.phase_lag_s = 0.3
        with pitr.process("backup", *vms, "--scheduler", fleet.address, "-o", "json") as process:
            wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
            children = [
                child for template in children_of(home.process.pid) for child in children_of(template)
            ]
            assert children
            home.kill()
            done = ended(process)
        lab.engine.phase_lag_s = 0.01
        assert done.code == 0, done
        assert sorted(point["vm"]["name"] for point in done.json["backups"]) == vms
        assert done.stderr.count("pitr starts the task again") == 3
        assert "taking a full backup of VM web0" in done.stderr
        wait_until(lambda: not children_of(home.process.pid), "the children of the killed worker")
        assert len(pitr.json("list")["points"]) == 3
        assert nothing_open(lab)
        # A worker that stops in order leaves with 0, and nobody waits for one that is not there.
        assert away.stop() == 0
        alone = pitr.json("backup", "web0", "--scheduler", fleet.address)
        assert alone["backups"][0]["kind"] == "incremental"
    assert pitr.json("verify")["ok"]


def test_workers_do_the_same_jobs_with_the_same_documents_over_mutual_tls(
    lab: Lab, pitr: Pitr, vms: list[str], tmp_path: Path
) -> None:
    made = pitr.json("fleet", "certificates", tmp_path / "fleet")
    folders = {role: Path(folder) for role, folder in made["folders"].items()}
    assert (tmp_path / "fleet/ca-key.pem").stat().st_mode & 0o077 == 0
    with fleet_of(pitr, "tls") as fleet:
        fleet.scheduler("--tls", folders["scheduler"])
        worker = fleet.worker("--tls", folders["worker"], "--slots", "2")
        secure = pitr.with_environment(PITR_FLEET_TLS=str(folders["caller"]))
        there = ("--scheduler", fleet.address)
        point = secure.json("backup", "web0", *there)["backups"][0]
        assert secure.json("backup", "web0", "--full", *there)["failed"] == []
        second = secure.json("backup", "web0", *there)["backups"][0]
        assert (point["kind"], second["kind"]) == ("full", "incremental")
        for command in (
            ("verify", "web0"),
            ("verify",),
            ("verify", "web0", "--sample", "100"),
            ("replicate", str(pitr.repository), str(tmp_path / "copy"), "--dry-run"),
        ):
            assert secure.json(*command, *there) == pitr.json(*command)
        consolidated = secure.json("consolidate", "web0", *there)
        assert consolidated["created"][0]["kind"] == "synthetic"
        drilled = secure.json("drill", "web0", "--digests-only", *there)
        assert drilled["drill"]["ok"] and drilled["point"]["proven"] is not None
        Path(pitr.environment["PITR_CONFIG"]).write_text(
            f'[policy.night]\nvms = ["web1"]\n[policy.night.hooks]\nafter_vm = "touch {tmp_path}/hook"\n'
        )
        steps = secure.json("run", "night", *there)["steps"]
        assert [(step["step"], step["ok"]) for step in steps] == [("backup", True)]
        assert (tmp_path / "hook").exists()
        # Who has no certificate of this authority is not heard.
        other = pitr.json("fleet", "certificates", tmp_path / "other")["folders"]["caller"]
        stranger = pitr.with_environment(PITR_FLEET_TLS=other)
        assert "does not answer" in stranger("verify", "web0", *there, code=1).complaint
        assert worker.stop() == 0


def test_limits_are_taken_together_or_not_at_all_by_all_callers(pitr: Pitr) -> None:
    with (
        fleet_of(pitr) as fleet,
        Client(_started(fleet), set_as_default=False) as client,
        Client(fleet.address, set_as_default=False) as other,
    ):
        a, b = Cap("a", 1), Cap("b", 1)
        mine, theirs = Caps(client), Caps(other)
        assert mine.take([b])
        assert not theirs.take([a, b])
        # They have given `a` back.
        assert mine.take([a])
        mine.give_back([a, b])
        assert theirs.take([b, a])
    assert parse(["engine=3", "storage-domain=8"]) == {"engine": 3, "storage-domain": 8}


def _started(fleet: TestFleet) -> str:
    fleet.scheduler()
    return fleet.address


def test_wrong_addresses_repositories_and_options_are_refused(pitr: Pitr, tmp_path: Path) -> None:
    for address, said in (
        ("tcp://10.0.0.1:8786", "without TLS"),
        ("http://127.0.0.1", "is not the address"),
        ("tls://127.0.0.1:8786", "no certificates"),
    ):
        assert said in pitr("worker", address, code=2).complaint
        assert said in pitr("verify", "--scheduler", address, code=2).complaint
    local = ("--scheduler", "tcp://127.0.0.1:1")
    assert "--cap" in pitr("backup", "web0", "--cap", "disk=1", *local, code=2).complaint
    assert "--cap goes with" in pitr("backup", "web0", "--cap", "engine=1", code=2).complaint
    assert "--limit-rate" in pitr("backup", "web0", "--limit-rate", "1M", *local, code=2).complaint
    assert "do not go with" in pitr("backup", "web0", "--to", "x", *local, code=2).complaint
    for dashboard in ("8787", "127.0.0.1:x", "127.0.0.1:99999"):
        assert "HOST:PORT" in pitr("fleet", "scheduler", "--dashboard", dashboard, code=2).complaint
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert (
            f"cannot listen at {used}" in pitr("fleet", "scheduler", used, code=BusyError.exit_code).complaint
        )
    restore = ("restore", "web1", "--at", "now", *local)
    assert "new files only" in pitr(*restore, code=2).complaint
    for options, said in (
        (("--format", "qcow2"), "only write a raw file"),
        (("--reuse",), "new files only"),
        (("--keep-going",), "goes with none of"),
    ):
        assert said in pitr(*restore, "--to-file", "x/", *options, code=2).complaint
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "not empty" in pitr("fleet", "certificates", tmp_path / "full", code=2).complaint


def test_the_plan_names_each_vms_host(lab: Lab, pitr: Pitr, vms: list[str]) -> None:
    lab.vm("web2").stop()
    planned = {each["vm"]["name"]: each for each in pitr.json("fleet", "plan", *vms)["commands"]}
    assert list(planned) == vms
    assert planned["web0"]["host"]["id"] == lab.engine.state.host_id
    assert planned["web2"]["host"] is None and planned["web2"]["cluster"]["id"]
    assert planned["web1"]["command"] == ["pitr", "backup", lab.vm("web1").id]
    assert planned["web0"]["host"]["name"] in pitr("fleet", "plan", *vms).stdout


def test_an_interrupted_caller_stops_its_workers_in_order(lab: Lab, pitr: Pitr, vms: list[str]) -> None:
    with fleet_of(pitr) as fleet:
        fleet.scheduler()
        fleet.worker("--slots", "3")
        lab.engine.phase_lag_s = 0.3
        with pitr.process("backup", *vms, "--scheduler", fleet.address) as process:
            wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        lab.engine.phase_lag_s = 0.01
        # The caller waits for its workers.
        assert nothing_open(lab)
        assert pitr.json("list")["points"] == []


def test_a_task_goes_home_else_to_the_cluster_else_to_a_machine_that_is_no_host() -> None:
    home = WorkerPlace("a", 1, "h1", "c1")
    neighbour = WorkerPlace("b", 1, "h2", "c1")
    stranger = WorkerPlace("c", 1, "h3", "c2")
    server = WorkerPlace("d", 4)
    workers = [server, stranger, neighbour, home]
    assert tiers(workers, Wanted("h1", "c1")) == [[home], [neighbour], [server]]
    assert tiers(workers, Wanted("h1", "c1"), {"a"}) == [[neighbour], [server]]
    assert tiers(workers, Wanted("h9", "c9")) == [[server]]
    assert tiers([stranger], Wanted("h1", "c1")) == []
    assert tiers(workers, Wanted()) == [workers]
    listed = {worker.address: {"resources": worker.resources} for worker in workers}
    assert places({**listed, "dask": {"resources": {}}}) == [home, neighbour, stranger, server]


def test_shares_have_each_stream_once_and_their_results_add_up() -> None:
    streams = [fake_stream() for _ in range(50)]
    shares = [[stream for stream in streams if Scope(share=(number, 3)).has(stream)] for number in range(3)]
    assert sorted(stream.stream_id for share in shares for stream in share) == sorted(
        stream.stream_id for stream in streams
    )
    damage = Damage("b", "d", "s", "corrupt", "blob", "wrong")
    whole = added_up(
        [
            Verified("full", 2, 3, 10, 100, 1, 0, 0, [damage]),
            Verified("full", 2, 4, 20, 200, 0, 1, 2, [damage]),
        ]
    )
    assert whole == Verified("full", 2, 7, 30, 300, 1, 1, 2, [damage])
