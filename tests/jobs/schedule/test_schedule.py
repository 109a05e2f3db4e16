# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr schedule`: systemd and cron run exactly the command, and nothing else of the machine is touched."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pitr.cli.commands import schedule
from pitr.errors import ProgramMissing, UsageError
from pitr.jobs.schedule import install
from pitr.jobs.schedule.install import UnitFolder
from pitr.jobs.schedule.units import MARK, ScheduledRun, Timing, crontab_line, units
from tests.support.pitr import Pitr

_SYSTEMD = "/usr/lib/systemd/systemd"
#: What a path and a policy may contain, and what systemd, cron and the shell all read in their own way.
_ODD = ["plain", "two words", "100%i", "$HOME ${x}", "it's", 'a "quote"', "back\\slash", "semi;colon", "ü-ß"]


@pytest.fixture
def command(command: Pitr, tmp_path: Path) -> Pitr:
    """Run the program `pitr` with a configuration that has two policies."""
    config = tmp_path / "policies.toml"
    config.write_text("[policy.nightly]\nall = true\n[policy.weekly]\nall = true\n")
    return command.with_environment(PITR_CONFIG=str(config))


def _shown(text: str) -> dict[str, str]:
    """Return the units that `pitr schedule show` prints, by the names of their files."""
    parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)
    assert parts[0] == ""
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None and not Path(program).exists():
            pytest.skip(f"{program} is not installed (the Debian package systemd has it)")


def _verify(folder: Path, *options: str) -> None:
    _need("systemd-analyze")
    # The machine's own units have sockets in this folder: with a long path, systemd complains about them.
    with tempfile.TemporaryDirectory(prefix="sd-") as runtime:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *options, *folder.glob("pitr*.*")],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            check=False,
        )
    # An unknown setting is only a warning, with exit code 0.
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_what_show_prints(command: Pitr, tmp_path: Path) -> None:
    command("schedule", "show", "nightly")
    shown = _shown(command("schedule", "show", "nightly").stdout)
    assert list(shown) == ["pitr-nightly.service", "pitr-nightly.timer", "pitr-failed@.service"]
    folder = tmp_path / "units"
    folder.mkdir()
    for name, text in shown.items():
        (folder / name).write_text(text)
    _verify(folder)
    service = shown["pitr-nightly.service"].splitlines()
    repository = command.environment["PITR_REPO"]
    assert "ProtectSystem=strict" in service and f"ReadWritePaths={repository}" in service
    assert any(line.startswith("OnFailure=pitr-failed@") for line in service)
    assert [line for line in service if line.startswith("ExecStart=") and line.endswith(" run nightly")]
    assert {"Nice=10", "IOSchedulingPriority=7", "Type=oneshot"} <= set(service)
    assert "RandomizedDelaySec=900" in shown["pitr-nightly.timer"].splitlines()


def test_systemd_accepts_the_units_of_a_user(tmp_path: Path) -> None:
    run = ScheduledRun("nightly", ["/bin/true", "run", "nightly"], {}, [tmp_path], user=None)
    UnitFolder(tmp_path / "units", None).install(units(run, Timing()))
    _verify(tmp_path / "units", "--user")
    service = (tmp_path / "units" / "pitr-nightly.service").read_text()
    assert "User=" not in service and "systemctl --user edit pitr-nightly.service" in service


@pytest.mark.parametrize("odd", _ODD)
def test_systemd_reads_every_path_and_policy_as_it_is(odd: str, tmp_path: Path) -> None:
    _need(_SYSTEMD, "runuser")
    repository = Path("/srv") / odd
    environment = {"PITR_REPO": str(repository), "PITR_USERNAME": odd}
    run = ScheduledRun(odd, ["/bin/true", "run", odd], environment, [repository])
    folder = tmp_path / "folder"
    made = units(run, Timing())
    UnitFolder(folder, None).install(made)
    _verify(folder, "--user")
    read = _as_systemd_reads(folder, made[0].file)
    assert f"ReadWritePaths: {repository}\n" in read
    assert f"RequiresMountsFor: {repository} (" in read
    assert f"Environment: PITR_REPO={repository}\n" in read and f"Environment: PITR_USERNAME={odd}\n" in read
    # systemd replaces $$ by $ later, when it runs the command.
    command = re.search(r"Command Line: (/bin/true .*)", read)
    assert command is not None
    assert shlex.split(command[1].replace("\\$", "$")) == ["/bin/true", "run", odd.replace("$", "$$")]


def _as_systemd_reads(folder: Path, file: str) -> str:
    """Let systemd load a unit without starting it, and return how it understands all units."""
    # It refuses root, and nobody cannot enter the folders of pytest.
    place = Path(f"/tmp/{folder.parent.name}-{os.getpid()}")  # noqa: S108
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place / "units")
    (place / "runtime").mkdir()
    try:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (place, *place.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        (place / "runtime").chmod(0o700)
        environment = {
            "HOME": str(place),
            "XDG_RUNTIME_DIR": str(place / "runtime"),
            "SYSTEMD_UNIT_PATH": f"{place}/units:",
            "SYSTEMD_LOG_TARGET": "console",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        as_nobody = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_nobody, "env", *words, _SYSTEMD, "--user", "--test", "--log-level=debug", f"--unit={file}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    finally:
        shutil.rmtree(place)
    return done.stdout + done.stderr


@pytest.mark.parametrize("odd", _ODD)
def test_cron_runs_the_command_with_every_path_and_policy_as_it_is(odd: str) -> None:
    program = ["/usr/bin/printf", "%s|", "run", odd]
    line = crontab_line(ScheduledRun(odd, program, {"PITR_REPO": odd}, [Path("/srv")]), "22:05")
    assert line.startswith("5 22 * * * PITR_REPO=")
    # cron cuts the line at a bare %, and takes the backslash before the others away.
    assert not re.search(r"(?<!\\)%", line)
    shell = line.split(" ", 5)[5].replace(r"\%", "%").replace("ionice -c 2 -n 7", "")
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == f"run|{odd}|"


def test_a_policy_that_does_not_exist_is_told_and_not_installed(command: Pitr, tmp_path: Path) -> None:
    shown = command("schedule", "show", "nigthly")
    assert "there is no policy 'nigthly'" in shown.stderr and "pitr-nigthly.service" in shown.stdout
    refused = command("schedule", "install", "nigthly", "--in", tmp_path / "units", code=2)
    assert "The configuration has: nightly, weekly" in refused.complaint
    assert not (tmp_path / "units").exists()


def test_a_repository_on_s3_may_write_to_its_state(command: Pitr, tmp_path: Path) -> None:
    on_s3 = command.with_environment(PITR_REPO="s3://bucket/pitr", XDG_STATE_HOME=str(tmp_path / "state"))
    shown = on_s3("schedule", "show", "nightly").stdout
    assert "Environment=PITR_REPO=s3://bucket/pitr\n" in shown
    assert f"ReadWritePaths={tmp_path}/state/pitr\n" in shown
    assert f"Environment=XDG_STATE_HOME={tmp_path}/state\n" in shown
    without = command.with_environment(PITR_REPO="s3://bucket/pitr")
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert f"ReadWritePaths={home}/.local/state/pitr\n" in without("schedule", "show", "nightly").stdout


def test_secrets_come_from_a_file(command: Pitr) -> None:
    shown = command("schedule", "show", "nightly", "--run-as", "root").stdout
    assert "EnvironmentFile=-/etc/pitr/environment\n" in shown


def test_a_line_break_is_refused(command: Pitr) -> None:
    refused = command("schedule", "show", "two\nlines", code=2)
    assert "line break" in refused.complaint


def test_the_time_is_chosen_and_a_second_installation_keeps_it(command: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    timer = folder / "pitr-nightly.timer"
    command("schedule", "install", "nightly", "--at", "1:30", "--random-delay", "1h", "--in", folder)
    assert {"OnCalendar=*-*-* 01:30:00", "RandomizedDelaySec=3600"} <= set(timer.read_text().splitlines())
    again = command.json("schedule", "install", "nightly", "--in", folder)
    assert again["written"] == [] and len(again["unchanged"]) == 3
    command("schedule", "install", "nightly", "--calendar", "Mon..Fri 22:00", "--in", folder)
    assert {"OnCalendar=Mon..Fri 22:00", "RandomizedDelaySec=3600"} <= set(timer.read_text().splitlines())
    for wrong in (
        ["--at", "25:00"],
        ["--at", "22:00", "--calendar", "daily"],
        ["--crontab", "--calendar", "daily"],
    ):
        command("schedule", "show", "nightly", *wrong, code=2)


def test_a_dry_run_writes_nothing(command: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    planned = command.json("schedule", "install", "nightly", "--in", folder, "--dry-run")
    assert planned["dry_run"] and len(planned["written"]) == 3
    assert not folder.exists()
    command("schedule", "install", "nightly", "--in", folder)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(command.json("schedule", "remove", "nightly", "--in", folder, "--dry-run")["removed"]) == 3
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_the_units_carry_the_settings_but_no_password(command: Pitr, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    with_engine = command.with_environment(PITR_ENGINE_URL="https://engine", PITR_PASSWORD="s3cret")
    options = (
        "--password-file",
        tmp_path / "password",
        "--username",
        "admin@internal",
        "--config",
        "production",
    )
    shown = with_engine("schedule", "show", *options).stdout
    assert "Environment=PITR_ENGINE_URL=https://engine\n" in shown
    assert f"Environment=PITR_PASSWORD_FILE={tmp_path}/password\n" in shown
    assert " run --config production\n" in shown
    (tmp_path / "config.toml").touch()
    log = ("--log-file", tmp_path / "night.log", "--log-format", "json")
    logged = with_engine("schedule", "show", *log, "--config-file", tmp_path / "config.toml").stdout
    assert f"Environment=PITR_CONFIG={tmp_path}/config.toml\nEnvironment=PITR_ENGINE_URL" in logged
    assert f"Environment=PITR_LOG_FILE={tmp_path}/night.log\nEnvironment=PITR_LOG_FORMAT=json\n" in logged
    assert f"ReadWritePaths={tmp_path}\n" in logged
    assert "s3cret" not in shown


def test_the_runs_belong_to_the_owner_of_the_repository(command: Pitr) -> None:
    owner = pwd.getpwuid(command.repository.stat().st_uid).pw_name
    run_as = f"User={owner}\n" if os.geteuid() == 0 else ""
    assert run_as in command("schedule", "show").stdout
    shown = command("schedule", "show", "--run-as", "backup").stdout
    assert "User=backup\n" in shown and "CapabilityBoundingSet=\n" in shown


def test_runs_of_another_user_do_not_read_your_configuration(command: Pitr, tmp_path: Path) -> None:
    own = tmp_path / "own" / "pitr" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[policy.nightly]\nall = true\n")
    mine = command.with_environment(PITR_CONFIG="", XDG_CONFIG_HOME=str(tmp_path / "own"))
    assert mine("schedule", "show", "nightly").stderr == ""
    told = mine("schedule", "show", "nightly", "--run-as", "daemon").stderr
    assert f"the runs of user daemon do not read {own}" in told


def _calls(calls: list[str]) -> install.RunProgram:
    def note(words: Sequence[str]) -> str:
        calls.append(" ".join(words))
        return ""

    return note


def test_it_installs_and_removes_its_own_units_only(tmp_path: Path) -> None:
    calls: list[str] = []
    folder = UnitFolder(tmp_path, ("systemctl", "--user"), _calls(calls))
    (tmp_path / "other.service").write_text("[Service]\n")
    for policy in ("nightly", "weekly"):
        folder.install(units(ScheduledRun(policy, ["/bin/true"], {}, [tmp_path]), Timing()))
    first = ["daemon-reload", "enable pitr-nightly.timer", "restart pitr-nightly.timer"]
    assert calls[:3] == [f"systemctl --user {call}" for call in first]
    (tmp_path / "pitr-nightly.service.d").mkdir()
    calls.clear()
    folder.remove("pitr-nightly")
    assert calls == [
        f"systemctl --user {call}" for call in ("disable --now pitr-nightly.timer", "daemon-reload")
    ]
    left = {path.name for path in tmp_path.iterdir()}
    weekly = {"pitr-weekly.service", "pitr-weekly.timer", "pitr-failed@.service"}
    assert left == {"other.service", "pitr-nightly.service.d", *weekly}
    folder.remove("pitr-weekly")
    assert {path.name for path in tmp_path.iterdir()} == {"other.service", "pitr-nightly.service.d"}
    calls.clear()
    assert folder.remove("pitr-weekly").removed == [] and calls == []


@pytest.mark.parametrize("action", ["install", "remove"])
def test_a_unit_that_pitr_did_not_create_stays(tmp_path: Path, action: str) -> None:
    foreign = tmp_path / "pitr-nightly.timer"
    foreign.write_text("[Timer]\n")
    calls: list[str] = []
    folder = UnitFolder(tmp_path, ("systemctl",), _calls(calls))
    with pytest.raises(UsageError, match="did not create it"):
        if action == "install":
            folder.install(units(ScheduledRun("nightly", ["/bin/true"], {}, [tmp_path]), Timing()))
        else:
            folder.remove("pitr-nightly")
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name] and calls == []
    assert foreign.read_text() == "[Timer]\n"


def test_root_gets_units_of_the_system_and_a_user_units_of_the_user(
    command: Pitr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert install.unit_folder(None).path == Path("/etc/systemd/system")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    command("schedule", "install", "nightly", "--run-as", "backup", "--dry-run", code=2)
    folder = install.unit_folder(None)
    assert (folder.path, folder.manager) == (tmp_path / "systemd" / "user", ("systemctl", "--user"))


def test_without_systemd_it_says_what_to_do_and_writes_nothing(
    command: Pitr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "_BOOTED", tmp_path / "absent")
    monkeypatch.setattr(schedule, "unit_folder", lambda _: UnitFolder(tmp_path / "units", ("systemctl",)))
    refused = command("schedule", "install", "nightly", code=ProgramMissing.exit_code)
    assert "systemd does not run" in refused.complaint and "--crontab" in refused.complaint
    assert not (tmp_path / "units").exists()


@pytest.fixture
def crontab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a program `crontab` on PATH that keeps the crontab in a file, and return this file."""
    file = tmp_path / "crontab.txt"
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = - ] && exec cat > "{file}"\n'
        f'[ -e "{file}" ] && exec cat "{file}"\n'
        'echo "no crontab for root" >&2; exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return file


def test_a_crontab_keeps_its_other_lines(command: Pitr, crontab: Path) -> None:
    command("schedule", "install", "nightly", "--crontab", "--dry-run")
    assert not crontab.exists()
    command("schedule", "install", "nightly", "--crontab")
    own = crontab.read_text()
    crontab.write_text(f"# mine\n0 4 * * * true\n{own}5 5 * * * false\n")
    command("schedule", "install", "weekly", "--crontab", "--at", "3:00")
    command("schedule", "install", "nightly", "--crontab", "--at", "23:10")
    lines = crontab.read_text().splitlines()
    assert [line[:13] for line in lines if not line.startswith("#")] == [
        "0 4 * * * tru",
        "5 5 * * * fal",
        "0 3 * * * PIT",
        "10 23 * * * P",
    ]
    shown = command("schedule", "show", "nightly", "--crontab", "--at", "23:10").stdout
    assert shown.splitlines() == lines[-1:]
    assert command.json("schedule", "install", "nightly", "--crontab", "--at", "23:10")["written"] == []
    for policy in ("nightly", "weekly", "weekly"):
        command("schedule", "remove", policy, "--crontab")
    assert crontab.read_text() == "# mine\n0 4 * * * true\n5 5 * * * false\n"


def test_a_crontab_that_cannot_be_read_is_not_replaced(command: Pitr, crontab: Path) -> None:
    program = crontab.parent / "bin" / "crontab"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = - ] && exec cat > '{crontab}'\necho denied >&2; exit 1\n")
    refused = command("schedule", "install", "nightly", "--crontab", code=1)
    assert "cannot read the crontab: denied" in refused.complaint
    assert not crontab.exists()


def test_each_unit_begins_with_the_mark() -> None:
    made = units(ScheduledRun(None, ["/bin/true"], {}, [Path("/srv")]), Timing())
    assert [unit.file for unit in made] == ["pitr.service", "pitr.timer", "pitr-failed@.service"]
    assert all(unit.text.startswith(MARK) for unit in made)
    own = units(
        ScheduledRun(None, ["/bin/true"], {}, [Path("/srv")], on_failure="page-me@%n.service"), Timing()
    )
    assert "OnFailure=page-me@%n.service\n" in own[0].text and len(own) == 2
    with pytest.raises(UsageError, match="name of a unit"):
        units(ScheduledRun(None, [], {}, [Path("/srv")], on_failure="page me"), Timing())


@pytest.mark.parametrize(
    ("repository", "program", "private"),
    [
        ("/srv/pitr", "/bin/pitr", True),
        ("/tmp/x", "/bin/pitr", False),  # noqa: S108
        ("/srv/pitr", "/var/tmp/pitr", False),  # noqa: S108
    ],
)
def test_a_temporary_folder_of_its_own_hides_nothing_that_the_run_needs(
    repository: str, program: str, private: bool
) -> None:
    [service, *_] = units(ScheduledRun(None, [program], {}, [Path(repository)]), Timing())
    lines = service.text.splitlines()
    assert ("PrivateTmp=yes" in lines) == private
    assert ("ReadWritePaths=/var/tmp" in lines) != private
