# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr run`: the steps of a policy, each on its own, with one result."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support import s3
from tests.support.lab import MiB, nothing_open
from tests.support.pitr import Pitr, ended, wait_until
from tests.support.policies import add_vm, configure, steps_of


def _names(pitr: Pitr) -> list[str]:
    return sorted(point["vm"]["name"] for point in pitr.json("list")["points"])


def _blob(pitr: Pitr, point: Any) -> Path:
    disk = point["disks"][0]
    found = list(pitr.repository.rglob(f"*{disk['stream_id']}*.zst"))
    if not found:
        found = [path for path in pitr.repository.rglob(f"*{disk['stream_id']}*") if path.suffix != ".index"]
    return max(found, key=lambda path: path.stat().st_size)


def test_a_policy_backs_up_by_tag_removes_verifies_and_drills(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1", "daily")
    add_vm(lab, "web2", "daily")
    add_vm(lab, "test-1", "daily")
    add_vm(lab, "web3", "daily", "nobackup")
    add_vm(lab, "other")
    configure(
        pitr,
        '[policy.nightly]\ntags = ["daily"]\nexclude = ["test-*"]\nexclude_tags = ["nobackup"]\n'
        'keep_last = 2\nverify_every = "1d"\ndrills = 1\n',
    )
    for _ in range(3):
        document = pitr.json("run")
    assert (document["policy"], document["dry_run"], document["ok"]) == ("nightly", False, True)
    assert [(step["step"], step["vm"], step["ok"]) for step in document["steps"]] == [
        ("backup", "web1", True),
        ("backup", "web2", True),
        ("prune", "web1", True),
        ("prune", "web2", True),
        ("prune", None, True),
        ("verify", "web1", True),
        ("verify", "web2", True),
        ("drill", "web1", True),
    ]
    assert all(step["error"] is None and step["damage"] == [] for step in document["steps"])
    backup = steps_of(document, "backup")["web1"]
    assert backup["kind"] == "incremental" and backup["vm_id"] == lab.vm("web1").id
    # The disks are empty, so no other blob is left.
    assert "read 2 streams" in steps_of(document, "verify")["web2"]["detail"]
    # The second point was based on the first, which goes, so prune consolidated the second.
    points = pitr.json("list")["points"]
    assert sorted((point["vm"]["name"], point["kind"]) for point in points) == [
        (name, kind) for name in ("web1", "web2") for kind in ("incremental", "synthetic")
    ]
    # Each run drilled another VM than the one before.
    drilled = [
        [step["vm"]["name"] for step in run["steps"] if step["step"] == "drill"]
        for run in pitr.json("history")["runs"]
    ]
    assert drilled == [["web1"], ["web2"], ["web1"]]
    shown = pitr("run", "nightly")
    assert "backup" in shown.stdout and "policy nightly: 8 steps, all good" in shown.stderr


def test_a_failing_vm_stops_nothing_else(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1", "daily")
    add_vm(lab, "web2", "daily")
    configure(
        pitr, '[policy.p]\ntags = ["daily", "none"]\nvms = ["gone"]\nkeep_last = 7\nverify_every = "1d"\n'
    )
    lab.engine.set_vm(lab.vm("web1").id, previewing=True)
    result = pitr("run", "--output", "json", code=1)
    document = result.json
    backups = steps_of(document, "backup")
    assert not document["ok"] and {vm for vm, step in backups.items() if not step["ok"]} == {
        None,
        "gone",
        "web1",
    }
    assert "no VM has the tag 'none'" in backups[None]["error"]["message"]
    assert backups["gone"]["error"]["type"] == "NoSuchVM"
    assert "previewing" in backups["web1"]["error"]["message"] and backups["web1"]["error"]["advice"]
    assert backups["web2"]["ok"] and steps_of(document, "verify")["web2"]["ok"]
    assert steps_of(document, "prune")["web2"]["ok"]
    assert "policy p: 3 of 7 steps failed" in result.stderr
    run = pitr.json("history")["runs"][0]
    assert (run["command"], run["policy"], run["ok"], run["exit_code"]) == ("run", "p", False, 1)


def test_an_unreachable_engine_fails_the_backup_and_the_rest_goes_on(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1", "daily")
    configure(pitr, '[policy.p]\ntags = ["daily"]\nkeep_last = 7\nverify_every = "1d"\ndrills = 1\n')
    pitr.json("run")
    away = pitr.with_environment(PITR_ENGINE_URL="https://127.0.0.1:1")
    document = away.json("run", code=1)
    assert [(step["step"], step["vm"], step["ok"]) for step in document["steps"]] == [
        ("backup", None, False),
        # The last run tells which VMs have the tag.
        ("prune", "web1", True),
        ("prune", None, True),
        ("verify", "web1", True),
        ("drill", "web1", True),
    ]
    assert document["steps"][0]["error"]["type"] in ("EngineError", "EngineFault")
    # A VM that the engine lost stays a member, one that has no tag any more does not.
    vm = lab.vm("web1")
    vm.stop()
    vm.remove()
    add_vm(lab, "web2", "daily")
    document = pitr.json("run")
    assert set(steps_of(document, "backup")) == {"web2"}
    assert {"web1", "web2"} <= set(steps_of(document, "prune"))


def test_damage_that_verify_finds_fails_the_run(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1")
    vm = lab.vm("web1")
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * 70_000)
    configure(pitr, '[policy.p]\nvms = ["web1"]\nverify_every = "1d"\n')
    pitr.json("run")
    point = pitr.json("list")["points"][0]
    blob = _blob(pitr, point)
    stored = bytearray(blob.read_bytes())
    stored[len(stored) // 2] ^= 0xFF
    blob.chmod(0o600)
    blob.write_bytes(stored)
    document = pitr.json("run", code=1)
    verified = steps_of(document, "verify")["web1"]
    assert not document["ok"] and not verified["ok"] and steps_of(document, "backup")["web1"]["ok"]
    assert verified["error"]["type"] == "DamageError"
    assert point["backup_id"] in verified["damage"][0]["points_lost"]


def test_known_damage_fails_each_run_until_it_is_gone(lab: Lab, pitr: Pitr) -> None:
    for name in ("web1", "web2"):
        vm = add_vm(lab, name)
        with vm.disks[0].guest() as guest:
            guest.write(0, b"A" * 70_000)
        pitr.backup(name)
    point = next(point for point in pitr.json("list")["points"] if point["vm"]["name"] == "web2")
    _blob(pitr, point).unlink()
    pitr("verify", "web2", "--quick", code=3)
    # The turn of web1 comes first, so this run reads nothing of web2.
    configure(pitr, '[policy.p]\nvms = ["web1", "web2"]\nverify_every = "300d"\n')
    document = pitr.json("run", code=1)
    assert [(vm, step["ok"]) for vm, step in steps_of(document, "verify").items()] == [
        ("web1", True),
        ("web2", False),
    ]
    assert steps_of(document, "verify")["web2"]["damage"][0]["kind"] == "missing"
    pitr("forget", point["backup_id"])
    assert steps_of(pitr.json("run"), "verify")


def test_a_dry_run_names_the_vms_and_changes_nothing(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1", "daily")
    add_vm(lab, "web2", "daily")
    trace = tmp_path / "hook"
    configure(
        pitr,
        '[policy.p]\ntags = ["daily"]\nkeep_last = 1\nverify_every = "1d"\ndrills = 1\n'
        f'[policy.p.hooks]\nbefore_run = "touch {trace}"\n[policy.p.notify]\ncommand = "touch {trace}"\n'
        'on = ["success"]\n',
    )
    pitr.backup("web1")
    before = _tree(pitr.repository)
    lab.engine.forget_requests()
    document = pitr.json("run", "--dry-run")
    assert document["dry_run"] and document["ok"]
    backups = steps_of(document, "backup")
    assert set(backups) == {"web1", "web2"}
    assert {vm: step["kind"] for vm, step in backups.items()} == {"web1": "incremental", "web2": "full"}
    assert "would read 1 stream" in steps_of(document, "verify")["web1"]["detail"]
    assert "would restore" in steps_of(document, "drill")["web1"]["detail"]
    assert "would remove 0 points" in steps_of(document, "prune")["web1"]["detail"]
    changing = [
        request for request in lab.engine.requests if request.method != "GET" and "/api/" in request.path
    ]
    assert changing == [] and _tree(pitr.repository) == before and not trace.exists()
    assert len(pitr.json("history")["runs"]) == 1


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _tree(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and "catalog" not in path.name
    }


def test_a_name_that_several_vms_have_is_refused(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1")
    other = add_vm(lab, "web2")
    # In another data center, a VM may have the same name.
    with lab.engine.state.lock:
        lab.engine.state.vm(other.id).name = "web1"
    configure(pitr, '[policy.p]\nvms = ["web1", "gone"]\nexclude_disks = ["swap"]\n')
    errors = {vm: step["error"] for vm, step in steps_of(pitr.json("run", code=1), "backup").items()}
    assert "2 VMs have the name" in errors["web1"]["message"]
    assert errors["gone"]["type"] == "NoSuchVM"


def test_disks_are_left_out_by_pattern_and_for_one_vm(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1", disks=("system", "web1-swap", "scratch"))
    add_vm(lab, "db1", disks=("system", "scratch"))
    configure(
        pitr, '[policy.p]\nvms = ["web1", "db1"]\nexclude_disks = ["*-swap", "db1/scratch"]\njobs = 2\n'
    )
    pitr.json("run")
    disks = {
        point["vm"]["name"]: {disk["name"] for disk in point["disks"]}
        for point in pitr.json("list")["points"]
    }
    assert disks == {"web1": {"system", "scratch"}, "db1": {"system"}}


def test_the_rate_of_a_policy_limits_its_run(lab: Lab, pitr: Pitr) -> None:
    vm = lab.add_vm("web1")
    vm.add_disk("system", 8 * MiB, bootable=True)
    vm.start()
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * 4 * MiB)
    configure(pitr, '[policy.p]\nvms = ["web1"]\nlimit_rate = "1M"\n')
    limited = steps_of(pitr.json("run"), "backup")["web1"]["duration_s"]
    # One second of the four is in the bucket at the begin.
    assert limited > 2.9
    pitr.backup("web1", "--full")
    configure(pitr, '[policy.p]\nvms = ["web1"]\nfull_every = "1h"\n')
    assert steps_of(pitr.json("run"), "backup")["web1"]["kind"] == "incremental"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_says_what_it_did(lab: Lab, pitr: Pitr, tmp_path: Path, jobs: int) -> None:
    add_vm(lab, "web1")
    add_vm(lab, "web2")
    going = tmp_path / "going"
    configure(
        pitr,
        f'[policy.p]\njobs = {jobs}\nvms = ["web1", "web2"]\nkeep_last = 1\nverify_every = "1d"\n[policy.p.hooks]\n'
        f"before_vm = 'if [ $PITR_VM = web2 ]; then touch {going}; sleep 100; fi'\n"
        f"after_vm = 'echo $PITR_VM $PITR_STATE >> {tmp_path}/after'\n"
        f"after_run = 'echo run $PITR_STATE >> {tmp_path}/after'\n",
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        going.unlink(missing_ok=True)
        (tmp_path / "after").unlink(missing_ok=True)
        with pitr.process("run", "--output", "json") as process:
            wait_until(going.exists, "the hook of web2")
            wait_until(lambda: "web1" in _text(tmp_path / "after"), "the backup of web1")
            # As timeout(1) does it.
            process.send_signal(signum)
            process.send_signal(signum)
            result = ended(process)
        assert result.code == 128 + signum
        document = result.json
        assert not document["ok"] and document["error"]["type"] == "Interrupted"
        assert [(step["step"], step["vm"]) for step in document["steps"]] == [("backup", "web1")]
        assert document["unfinished"] == [
            {"step": "backup", "vm": "web2"},
            {"step": "prune", "vm": None},
            {"step": "verify", "vm": None},
        ]
        assert (tmp_path / "after").read_text().splitlines() == [
            "web1 ok",
            "web2 interrupted",
            "run interrupted",
        ]
    assert nothing_open(lab)
    run = pitr.json("history")["runs"][0]
    assert (run["exit_code"], run["error"]["type"]) == (128 + signal.SIGINT, "Interrupted")
    assert run["steps"][0]["vm"]["name"] == "web1"


def test_data_that_was_never_proven_is_read_first_and_all_of_it_in_time(lab: Lab, pitr: Pitr) -> None:
    vm = add_vm(lab, "web1")
    configure(pitr, '[policy.p]\nvms = ["web1"]\nverify_every = "4d"\n')
    for number in range(8):
        with vm.disks[0].guest() as guest:
            guest.write(number * 70_000, bytes(range(256)) * 200)
        pitr.backup("web1")
    read = 0
    for _ in range(4):
        document = pitr.json("run", "p")
        verified = steps_of(document, "verify")["web1"]
        read += int(verified["detail"].split()[1])
    # Each run adds a stream of its own: 12 in all.
    assert read >= 8
    assert verified["read_bytes"] < 3 * MiB


def test_a_policy_is_chosen_by_name(lab: Lab, pitr: Pitr) -> None:
    configure(pitr, '[policy.a]\nvms = ["x"]\n[policy.b]\nvms = ["y"]\n')
    complaint = pitr("run", code=2).complaint
    assert "several policies" in complaint and "a, b" in complaint
    assert "no policy 'c'" in pitr("run", "c", code=2).complaint
    configure(pitr, "")
    assert "has no policy" in pitr("run", code=2).complaint
    configure(pitr, "[policy.a]\ndrills = 1\n")
    assert "chooses no VM" in pitr("run", "a", code=2).complaint


def test_a_policy_runs_on_a_repository_in_a_bucket(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    configure(
        pitr,
        '[policy.p]\nvms = ["web1"]\nkeep_last = 1\nverify_every = "1d"\ndrills = 1\nfull_every = "1d"\n'
        f"[policy.p.hooks]\nafter_vm = 'env > {tmp_path}/env'\nafter_run = 'true'\n",
    )
    remote = pitr.with_environment(
        PITR_REPO=f"s3://{s3.BUCKET}/policy/{tmp_path.name}",
        AWS_ENDPOINT_URL_S3=s3.server(),
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="hidden-key-of-the-bucket",
        XDG_STATE_HOME=str(tmp_path / "state"),
    )
    remote("init")
    for _ in range(2):
        document = remote.json("run")
    assert {step["step"] for step in document["steps"]} == {"backup", "prune", "verify", "drill"}
    # The point that is left needs no other one.
    assert "read 1 stream" in steps_of(document, "verify")["web1"]["detail"]
    assert [run["ok"] for run in remote.json("history")["runs"]] == [True, True]
    told = (tmp_path / "env").read_text()
    assert f"PITR_REPO=s3://{s3.BUCKET}/policy/" in told and "hidden-key" not in told
