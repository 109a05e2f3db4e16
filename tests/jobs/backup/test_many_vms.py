# SPDX-License-Identifier: GPL-2.0-or-later
"""Many VMs in one run, and the configuration file that names them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pitr.cli.config import load_settings
from pitr.errors import UsageError
from pitr.lab import Lab
from tests.support.lab import MiB, nothing_open
from tests.support.pitr import PATIENCE_S, Pitr, wait_until


def _fleet(lab: Lab, count: int = 3) -> list[str]:
    """web0, web1… with a disk each; all but the first have the tag "daily"."""
    for number in range(count):
        vm = lab.add_vm(f"web{number}", tags=["daily"] if number else [])
        vm.add_disk("system", MiB, bootable=True)
        vm.start()
    return [f"web{number}" for number in range(count)]


def test_all_and_tags_choose_vms_and_a_failure_stops_only_its_own(lab: Lab, pitr: Pitr) -> None:
    _fleet(lab)
    document = pitr.json("backup", "--all", "--jobs", "3")
    assert [point["vm"]["name"] for point in document["backups"]] == ["web0", "web1", "web2"]
    assert (document["failed"], document["skipped"]) == ([], [])
    tagged = pitr.json("backup", "--tag", "daily", "--jobs", "2")
    assert [point["vm"]["name"] for point in tagged["backups"]] == ["web1", "web2"]
    assert {point["kind"] for point in tagged["backups"]} == {"incremental"}
    lab.engine.set_vm(lab.vm("web1").id, previewing=True)
    result = pitr("backup", "web0", "nosuch", "web1", "web2", "--jobs", "4", "-o", "json", code=1)
    failed = {item["vm"]: item["error"] for item in result.json["failed"]}
    assert {name: error["type"] for name, error in failed.items()} == {
        "nosuch": "NoSuchVM",
        "web1": failed["web1"]["type"],
    }
    assert "previewing" in failed["web1"]["message"]
    assert [point["vm"]["name"] for point in result.json["backups"]] == ["web0", "web2"]
    shown = pitr("backup", "web0", "web1", code=1)
    table = {line.split()[0]: line.split()[1] for line in shown.stdout.splitlines() if "web" in line}
    assert table == {"web0": "incremental", "web1": "FAILED"}
    assert pitr.json("verify")["ok"]


def test_one_vm_that_fails_has_its_own_exit_code(lab: Lab, pitr: Pitr) -> None:
    assert pitr("backup", "nosuch", "-o", "json", code=4).error["type"] == "NoSuchVM"
    assert "no VM has the tag" in pitr("backup", "--tag", "nosuch", code=2).complaint
    assert "exclude" not in pitr("backup", "--all", "web0", code=2).complaint
    _fleet(lab, 2)
    assert "one VM" in pitr("backup", "--all", "--disk", "system", code=2).complaint


def test_an_interrupt_of_many_backups_leaves_nothing_open(lab: Lab, pitr: Pitr) -> None:
    _fleet(lab)
    for name in ("web0", "web1", "web2"):
        with lab.vm(name).disks[0].guest() as guest:
            guest.write(0, b"A" * MiB)
    # Readiness takes its time: the signal comes when all three wait for it.
    lab.engine.phase_lag_s = 30
    with pitr.process("backup", "--all", "--jobs", "3") as process:
        wait_until(lambda: len(lab.open_backups()) == 3, "three backups")
        process.send_signal(signal.SIGTERM)
        lab.engine.phase_lag_s = 0.01
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert nothing_open(lab)
    assert pitr.json("list")["points"] == []
    assert len(pitr.json("backup", "--all")["backups"]) == 3


def test_the_configuration_names_repository_vms_tags_and_engine(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _fleet(lab)
    lab.write_ovirt_img_config(tmp_path / "ovirt-img.conf")
    Path(pitr.environment["PITR_CONFIG"]).write_text(
        f'repository = "{pitr.environment["PITR_REPO"]}"\nworkers = 2\njobs = 2\n'
        '[engine]\nsection = "lab"\n[backup]\nvms = ["web0"]\ntags = ["daily"]\n[retention]\nkeep_last = 3\n'
    )
    plain = {name: value for name, value in pitr.environment.items() if name in ("PITR_CONFIG", "COLUMNS")}
    configured = Pitr({**plain, "XDG_CONFIG_HOME": str(tmp_path)})
    points = configured.json("backup")["backups"]
    assert {point["vm"]["name"] for point in points} == {"web0", "web1", "web2"}
    assert len(configured.json("backup", "web1")["backups"]) == 1
    for _ in range(3):
        configured.json("backup", "web1", "--full")
    pruned = configured.json("prune", "--dry-run")
    assert (len(pruned["removed"]), len(pruned["kept"])) == (2, 5)
    assert len(configured.json("prune", "--dry-run", "--keep-last", "1")["removed"]) == 4
    assert "[retention]" in pitr.with_environment(PITR_CONFIG="/dev/null")("prune", code=2).complaint
    # What is given comes first: this repository has nothing, that engine is not there.
    other = configured.with_environment(PITR_REPO=str(tmp_path / "other"))
    other("init")
    assert other.json("list")["points"] == []
    nowhere = configured.with_environment(PITR_ENGINE_URL="https://127.0.0.1:1")
    assert "user name" in nowhere("backup", code=2).complaint


def test_the_users_configuration_comes_before_the_systems(tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    system.write_text('repository = "/srv/all"\njobs = 4\n[retention]\nkeep_daily = 7\nkeep_within = "30d"\n')
    user = tmp_path / "pitr" / "config.toml"
    user.parent.mkdir()
    user.write_text('repository = "/srv/mine"\n')
    found = load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, system)
    assert (found.repository, found.jobs, found.files) == (Path("/srv/mine"), 4, (system, user))
    assert found.retention == {"keep_daily": 7, "keep_within": "30d"}
    assert load_settings({"XDG_CONFIG_HOME": str(tmp_path / "none")}, tmp_path / "none").files == ()
    for text, said in (
        ("repository = 1", "repository"),
        ("jobs = 0", "jobs"),
        ("repositroy = '/x'", "repositroy"),
        ("[backup]\nvms = 'web'", "backup.vms"),
        ("[retention]\nkeep_daily = true", "keep_daily"),
        ("= nonsense", "not valid TOML"),
    ):
        user.write_text(text)
        with pytest.raises(UsageError, match=said):
            load_settings({"PITR_CONFIG": str(user)})
    with pytest.raises(UsageError, match=r"configuration file .* not found"):
        load_settings({"PITR_CONFIG": str(tmp_path / "none")})
