# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms of the status: for Nagios, for Prometheus, as a table, and as a file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as older_format
from rich.cells import cell_len

from pitr.model import VMName
from pitr.repository import Repository, findings
from pitr.repository.damage import Damage
from tests.jobs.status.histories import GiB, Night, store
from tests.jobs.status.test_status import DB, QUIET, WEB, harm, hours_ago
from tests.support.pitr import Pitr

pytestmark = pytest.mark.usefixtures("quick_disk")

LONG = VMName("vm-long", "accounting-database-of-the-branch-office-2")


@pytest.fixture
def fleet(repository: Repository) -> Repository:
    """A VM that is well, one that was attacked, and one whose newest point is damaged."""
    store(repository, QUIET, vm=WEB, start=hours_ago(10 * 24))
    store(repository, [*QUIET, Night(38 * GiB, 0.99)], vm=LONG, start=hours_ago(11 * 24))
    harm(repository, store(repository, QUIET, vm=DB, start=hours_ago(12 * 24))[-1])
    return repository


# Nagios.


def test_nagios_gets_the_state_as_exit_code_and_one_line(fleet: Repository, command: Pitr) -> None:
    lines = command("status", "--output", "nagios", code=2).stdout.splitlines()
    assert lines[0].startswith("PITR CRITICAL: 2 of 3 VMs: db1: the newest chain is damaged")
    assert re.search(r" \| vms=3 warning=1;0 critical=1;;0 oldest=\d+s$", lines[0])
    assert [line.split(":")[0] for line in lines[1:]] == ["CRITICAL db1", f"WARNING {LONG.name}"]
    warning = command("status", "--output", "nagios", LONG.name, code=1)
    assert warning.stdout.startswith("PITR WARNING: 1 of 1 VM: accounting") and warning.stderr == ""
    assert command("status", "--output", "nagios", "web1").stdout.startswith("PITR OK: 1 VM ok | ")
    late = command("status", "-o", "nagios", "web1", "--max-age", "1h", code=2).stdout
    assert late.startswith("PITR CRITICAL") and "1 h 0 min are allowed" not in late


@pytest.mark.parametrize(
    "arguments",
    [
        ["--repo", "/no/such/folder"],
        ["--repo", ""],
        ["--repo", "host:/folder"],
        ["no-such-vm"],
        ["--max-age", "soon"],
        ["--no-such-option"],
    ],
)
def test_nagios_is_told_when_the_state_is_unknown(command: Pitr, arguments: list[str]) -> None:
    for form in (["--output", "nagios"], ["--output=nagios"], ["-o", "nagios"]):
        result = command("status", *form, *arguments, code=3)
        assert result.stdout.startswith("PITR UNKNOWN: ") and result.stdout.count("\n") == 1
        assert "|" not in result.stdout and result.stderr == ""


def test_nagios_is_told_of_a_damaged_repository(repository: Repository, command: Pitr) -> None:
    (repository.path / "repository.json").write_text("{}")
    assert command("status", "-o", "nagios", code=3).stdout.startswith("PITR UNKNOWN: ")
    # Without Nagios, the exit code says what failed.
    command("status", code=3)
    command("status", "--repo", "/no/such/folder", code=1)


# OpenMetrics.


def _families(text: str, *, older: bool = False) -> list[Metric]:
    parse: Callable[[str], Iterable[Metric]] = older_format if older else open_metrics
    return list(parse(text))


def _samples(text: str) -> dict[tuple[str, str], float]:
    assert text.endswith("# EOF\n")
    found = {
        (sample.name, sample.labels.get("vm", "")): sample.value
        for family in _families(text)
        for sample in family.samples
    }
    # The collector of text files reads the format that was before OpenMetrics.
    assert {
        (sample.name, sample.labels.get("vm", "")): sample.value
        for family in _families(text, older=True)
        for sample in family.samples
    } == found
    assert all(family.type == "gauge" for family in _families(text))
    return found


def test_metrics_have_the_name_of_the_vm_as_a_label(fleet: Repository, command: Pitr) -> None:
    text = command("status", "--output", "openmetrics", "--max-age", "30d", code=1).stdout
    samples = _samples(text)
    assert samples[("pitr_up", "")] == 1
    assert [samples[("pitr_vm_state", name)] for name in ("web1", LONG.name, "db1")] == [0, 1, 2]
    assert samples[("pitr_vm_points", "web1")] == 10
    assert samples[("pitr_vm_damaged_points", "db1")] == 1
    assert samples[("pitr_vm_unusual", LONG.name)] == 1
    assert samples[("pitr_vm_changed_bytes", LONG.name)] == 38 * GiB
    assert samples[("pitr_vm_usual_changed_bytes", LONG.name)] == int(0.6 * GiB)
    assert samples[("pitr_vm_max_age_seconds", "web1")] == 30 * 86400
    good = samples[("pitr_vm_newest_good_timestamp_seconds", "web1")]
    assert good == pytest.approx(hours_ago(24).timestamp(), abs=60)
    assert ("pitr_vm_proven_timestamp_seconds", "web1") not in samples
    assert 'vm_id="vm-db"' in text


def test_two_vms_with_one_name_have_two_ids(repository: Repository, command: Pitr) -> None:
    store(repository, [], vm=VMName("one", "same"))
    store(repository, [], vm=VMName("two", "same"))
    text = command("status", "-o", "openmetrics").stdout
    assert {label["vm_id"] for label in _labels(text, "pitr_vm_points")} == {"one", "two"}


def _labels(text: str, name: str) -> list[dict[str, str]]:
    return [sample.labels for family in _families(text) for sample in family.samples if sample.name == name]


def test_metrics_of_an_unreadable_repository_say_so(command: Pitr, tmp_path: Path) -> None:
    file = tmp_path / "pitr.prom"
    arguments = ("status", "-o", "openmetrics", "--to", file)
    command(*arguments)
    assert _samples(file.read_text())[("pitr_up", "")] == 1
    (command.repository / "repository.json").unlink()
    assert "no repository" in command(*arguments, code=1).complaint
    samples = _samples(file.read_text())
    assert samples[("pitr_up", "")] == 0 and {name for name, _ in samples} == {
        "pitr_up",
        "pitr_status_timestamp_seconds",
    }


# Files.


def test_the_file_is_replaced_at_once_and_others_can_read_it(
    fleet: Repository, command: Pitr, tmp_path: Path
) -> None:
    file = tmp_path / "metrics" / "pitr.prom"
    file.parent.mkdir()
    file.write_text("old")
    old = file.open()
    before = os.umask(0o077)
    try:
        result = command("status", "-o", "openmetrics", "--to", file, code=1)
    finally:
        os.umask(before)
    assert result.stdout == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert _samples(file.read_text())[("pitr_up", "")] == 1
    # A reader keeps the whole old file, and nothing else is left in the folder.
    assert old.read() == "old"
    old.close()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("form", ["text", "json", "nagios", "openmetrics"])
def test_each_form_goes_to_a_file(fleet: Repository, command: Pitr, tmp_path: Path, form: str) -> None:
    file = tmp_path / "status"
    code = 2 if form == "nagios" else 1
    assert command("status", "-o", form, "--to", file, code=code).stdout == ""
    in_file, printed = file.read_text(), command("status", "-o", form, code=code).stdout
    for value in ("db1", "encryption?" if form in ("text", "json") else "accounting-database-of"):
        assert value in in_file and value in printed


def test_a_file_that_cannot_be_replaced_is_refused(command: Pitr, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in command("status", "--to", pipe, code=2).complaint
    assert "not a regular file" in command("status", "--to", "/dev/null", code=2).complaint
    assert "not a regular file" in command("status", "--to", tmp_path, code=2).complaint
    assert "no files in /dev" in command("status", "--to", "/dev/pitr.prom", code=2).complaint
    assert not Path("/dev/pitr.prom").exists()
    assert "cannot write" in command("status", "--to", tmp_path / "no" / "file", code=1).complaint
    assert "--to is empty" in command("status", "--to", "", code=2).complaint


def test_a_link_stays_a_link(command: Pitr, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    command("status", "--to", link)
    assert link.is_symlink() and "holds no points" in target.read_text()


# Tables.


def test_a_terminal_of_132_columns_has_all_columns_on_one_line(fleet: Repository, command: Pitr) -> None:
    shown = command.with_environment(COLUMNS="132")("status", code=1).stdout
    lines = shown.splitlines()
    assert all(cell_len(line) <= 132 for line in lines), shown
    assert "No room" not in shown
    (head,) = [line for line in lines if "Newest good" in line]
    for column in (
        "State",
        "VM",
        "Age",
        "Points",
        "Chain",
        "Changed/usual",
        "Stored/usual",
        "Proven",
        "Damaged",
    ):
        assert column in head
    rows = [line for line in lines if line.strip().startswith(("CRITICAL", "WARNING", "ok "))]
    assert len(rows) == 3
    assert "38 GiB/0.6" in rows[1]


@pytest.mark.parametrize("width", [80, 60])
def test_narrow_terminals_keep_the_state_the_vm_and_the_reason(
    fleet: Repository, command: Pitr, width: int
) -> None:
    shown = command.with_environment(COLUMNS=str(width))("status", code=1).stdout
    assert all(cell_len(line) <= width for line in shown.splitlines()), shown
    rows = [line for line in shown.splitlines() if line.strip().startswith(("CRITICAL", "WARNING", "ok "))]
    assert len(rows) == 3 and "No room for" in shown
    flat = " ".join(shown.split())
    assert "the newest chain is damaged" in flat and "encryption?" in flat


def test_no_columns_for_what_is_nowhere(repository: Repository, command: Pitr) -> None:
    store(repository, QUIET, vm=WEB)
    shown = command.with_environment(COLUMNS="110")("status").stdout
    assert "Incomplete" not in shown and "Next run" not in shown and "Why" not in shown


def test_a_disk_of_which_nothing_is_known_is_not_lost_in_the_table(
    repository: Repository, command: Pitr
) -> None:
    made = store(repository, QUIET, vm=WEB, gap=timedelta(hours=1))
    findings.add(
        repository.store,
        WEB.id,
        "verify",
        [Damage("gone", None, None, "missing", "record", "the record is gone")],
        {},
    )
    assert command.json("status")["vms"][0]["newest_good"]["backup_id"] == made[-1].backup_id
