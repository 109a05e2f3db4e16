# SPDX-License-Identifier: GPL-2.0-or-later
"""Hooks: their order, what they get, and what their exit codes mean."""

from __future__ import annotations

import json
from pathlib import Path

from pitr.lab import Lab
from tests.support.pitr import Pitr
from tests.support.policies import add_vm, configure, steps_of


def _log_all(log: Path) -> str:
    names = ("before_run", "after_run", "before_vm", "after_vm", "on_error")
    return "".join(f"{name} = 'echo $PITR_HOOK $PITR_VM $PITR_STATE >> {log}'\n" for name in names)


def test_hooks_run_around_the_run_and_each_vm_in_order(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    add_vm(lab, "web2")
    log = tmp_path / "log"
    configure(pitr, f'[policy.p]\nvms = ["web2", "web1"]\n[policy.p.hooks]\n{_log_all(log)}')
    pitr("run")
    assert log.read_text().splitlines() == [
        "before_run",
        "before_vm web1",
        "after_vm web1 ok",
        "before_vm web2",
        "after_vm web2 ok",
        "after_run ok",
    ]
    log.unlink()
    lab.engine.set_vm(lab.vm("web1").id, previewing=True)
    pitr("run", code=1)
    assert [line for line in log.read_text().splitlines() if "web2" not in line] == [
        "before_run",
        "before_vm web1",
        "after_vm web1 failed",
        "after_run failed",
        "on_error failed",
    ]


def test_hooks_get_the_run_and_no_secret(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    configure(
        pitr,
        f'[policy.p]\nvms = ["web1"]\n[policy.p.hooks]\nafter_vm = "env > {tmp_path}/env"\n'
        '[policy.p.notify]\nping = "${SECRET_PING}"\non = []\n',
    )
    secret = pitr.with_environment(SECRET_PING="http://127.0.0.1:1/hidden", KEPT="kept")
    document = secret.json("run")
    told = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    backup = steps_of(document, "backup")["web1"]
    assert told["PITR_BACKUP_ID"] == backup["backup_id"] and told["PITR_KIND"] == "full"
    assert (told["PITR_POLICY"], told["PITR_VM"], told["PITR_VM_ID"]) == ("p", "web1", lab.vm("web1").id)
    assert told["PITR_REPO"] == str(pitr.repository) and int(told["PITR_STORED_BYTES"]) >= 0
    assert told["KEPT"] == "kept"
    assert not {"SECRET_PING", "PITR_PASSWORD_FILE", "PITR_USERNAME"} & set(told)


def test_a_failed_hook_before_a_vm_stops_only_this_vm(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    for name in ("web1", "web2", "web3"):
        add_vm(lab, name)
    configure(
        pitr,
        '[policy.p]\nvms = ["web1", "web2", "web3"]\njobs = 2\n[policy.p.hooks]\n'
        "before_vm = ['case $PITR_VM in web1) echo the database is down; exit 3;; web2) exit 75;; esac', "
        f"'touch {tmp_path}/second-$PITR_VM']\nafter_vm = 'touch {tmp_path}/after-$PITR_VM'\n",
    )
    result = pitr("run", "--output", "json", code=1)
    backups = steps_of(result.json, "backup")
    assert "before_vm failed with exit code 3: the database is down" in backups["web1"]["error"]["message"]
    assert "case $PITR_VM" in backups["web1"]["error"]["advice"]
    # Exit code 75 skips the VM, which is no failure.
    assert backups["web2"]["ok"] and "exit code 75" in backups["web2"]["skipped"]
    assert backups["web3"]["ok"] and backups["web3"]["backup_id"]
    assert "before_vm web1: the database is down" in result.stderr
    made = {path.name for path in tmp_path.glob("*-web*")}
    assert made == {"second-web3", "after-web1", "after-web2", "after-web3"}
    assert {point["vm"]["name"] for point in pitr.json("list")["points"]} == {"web3"}


def test_a_hook_before_the_run_stops_or_skips_the_run(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    log = tmp_path / "log"

    def run(command: str, code: int) -> dict[str, object]:
        log.unlink(missing_ok=True)
        configure(
            pitr,
            f'[policy.p]\nvms = ["web1"]\nkeep_last = 1\n[policy.p.hooks]\nbefore_run = "{command}"\n'
            f"after_run = 'echo after $PITR_STATE >> {log}'\non_error = 'echo $PITR_ERROR >> {log}'\n",
        )
        document: dict[str, object] = pitr.json("run", code=code)
        return document

    failed = run("exit 2", 1)
    assert [step["step"] for step in failed["steps"]] == ["hook"]  # type: ignore[attr-defined]
    assert log.read_text() == "after failed\nthe hook before_run failed with exit code 2\n"
    skipped = run("exit 75", 0)
    assert skipped["ok"] and "exit code 75" in str(skipped["skipped"])
    assert log.read_text() == "after skipped\n"
    assert pitr.json("list")["points"] == []
    assert run("true", 0)["skipped"] is None


def test_a_failed_hook_after_a_vm_or_the_run_is_a_failed_step(lab: Lab, pitr: Pitr) -> None:
    add_vm(lab, "web1")
    configure(
        pitr, '[policy.p]\nvms = ["web1"]\n[policy.p.hooks]\nafter_vm = "exit 1"\nafter_run = "exit 75"\n'
    )
    document = pitr.json("run", code=1)
    assert [(step["step"], step["vm"], step["ok"]) for step in document["steps"]] == [
        ("backup", "web1", True),
        ("hook", "web1", False),
        ("hook", None, False),
    ]


def test_a_hook_that_takes_too_long_is_stopped_with_what_it_started(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    add_vm(lab, "web1")
    configure(
        pitr,
        f"[policy.p]\nvms = ['web1']\n[policy.p.hooks]\nbefore_vm = '(sleep 3; touch {tmp_path}/late) & sleep 100'\n"
        "timeout = '1s'\n",
    )
    document = pitr.json("run", code=1)
    error = steps_of(document, "backup")["web1"]["error"]
    assert "did not exit within 1 s" in error["message"], json.dumps(error)
    assert steps_of(document, "backup")["web1"]["duration_s"] < 30
    assert not (tmp_path / "late").exists()


def test_hooks_may_mount_and_unmount_the_repository(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    away = tmp_path / "away"
    there = pitr.repository
    configure(
        pitr,
        f"[policy.p]\nvms = ['web1']\nverify_every = '1d'\n[policy.p.hooks]\nbefore_run = 'mv {away} {there}'\n"
        f"after_run = 'mv {there} {away}'\n[policy.p.notify]\ncommand = 'cat >> {tmp_path}/told'\n",
    )
    there.rename(away)
    for _ in range(2):
        assert pitr.json("run")["ok"] and not there.exists()
    mounted = pitr.with_environment(PITR_REPO=str(away))
    runs = mounted.json("history")["runs"]
    assert [(run["policy"], run["exit_code"], len(run["steps"])) for run in runs] == [("p", 0, 2)] * 2
    assert not (tmp_path / "told").exists()


def test_a_repository_that_is_not_there_is_told(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    configure(
        pitr,
        f"[policy.p]\nall = true\n[policy.p.hooks]\non_error = 'echo $PITR_ERROR > {tmp_path}/error'\n"
        f"[policy.p.notify]\ncommand = 'cat > {tmp_path}/told'\n",
    )
    pitr.repository.rename(tmp_path / "away")
    document = pitr.json("run", code=1)
    assert [(step["step"], step["ok"]) for step in document["steps"]] == [("repository", False)]
    assert "no repository" in document["steps"][0]["error"]["message"]
    assert "no repository" in (tmp_path / "told").read_text()
    assert "no repository" in (tmp_path / "error").read_text()
    assert not pitr.json("run", "--dry-run", code=1)["ok"]
