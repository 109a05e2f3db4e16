# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: its schema, its reference, `pitr config`, and the engine in it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from pitr.cli import config_reference
from pitr.cli.config import load_settings
from pitr.cli.config_check import problems, schema
from pitr.errors import UsageError
from pitr.jobs.policy_run.policy import Policy, choose_policy
from pitr.lab import Lab
from tests.support.lab import make_vm
from tests.support.pitr import Pitr

ROOT = Path(__file__).parents[2]
WHOLE = """
repository = "{repository}"
workers = 2

[engine]
url = "https://engine.example.com"
username = "admin@internal"
password_command = "printf secret-of-the-engine"

[policy.nightly]
tags = ["daily"]
exclude = ["test-*"]
keep_daily = 30
verify_every = "30d"
drills = 1

[policy.nightly.hooks]
before_run = ["true", "true"]

[policy.nightly.notify]
urls = ["json://someone:hidden-word@localhost/${{TOKEN}}"]
ping = "https://hc.example.com/hidden-path"
"""


def _configured(tmp_path: Path, text: str) -> Pitr:
    file = tmp_path / "pitr.toml"
    file.write_text(text)
    return Pitr({"PITR_CONFIG": str(file), "COLUMNS": "200", "TZ": "UTC"})


def test_the_reference_is_fresh() -> None:
    written = (ROOT / "docs/configuration.md").read_text()
    assert written == config_reference.markdown(), "docs/configuration.md is stale: run 'make docs'"


def test_the_configuration_that_the_reference_shows_is_one() -> None:
    shown = config_reference.markdown().split("```toml\n")[1].split("```")[0]
    document = tomllib.loads(shown)
    assert problems(document) == []
    assert Policy.of("nightly", document["policy"]["nightly"]).retention.daily == 30


def test_each_example_of_the_schema_is_valid() -> None:
    properties = schema()["definitions"]["policy"]["properties"]
    table = {key: item["examples"][0] for key, item in properties.items() if "examples" in item}
    assert problems({"policy": {"nightly": table}}) == []
    assert Policy.of("nightly", table).choice.exclude_disks == ("*-swap", "db1/scratch")


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("[policy.nightly]\ndrils = 1", "policy.nightly.drils", "Did you mean 'policy.nightly.drills'?"),
        ("repositroy = '/x'", "repositroy", "Did you mean 'repository'?"),
        ("[enigne]\nurl = 'x'", "enigne", "Did you mean 'engine'?"),
        (
            "keep_within = '3d'",
            "keep_within",
            "Did you mean 'policy.NAME.keep_within' or 'retention.keep_within'",
        ),
        ("[policy.n.notify]\npin = 'x'", "policy.n.notify.pin", "Did you mean 'policy.n.notify.ping'?"),
        ("[policy.n]\nverify_every = '30'", "policy.n.verify_every", "must be a time span"),
        ("[policy.n]\nfull_every = '0d'", "policy.n.full_every", "must be a time span"),
        ("[policy.n]\ndrills = -1", "policy.n.drills", "must be a number of at least 0, not -1"),
        ("[policy.n]\nkeep_daily = true", "policy.n.keep_daily", "must be a number of at least 1, not True"),
        ("[policy.n]\nall = 1", "policy.n.all", "must be true or false, not 1"),
        ("[policy.n]\nlimit_rate = 'fast'", "policy.n.limit_rate", "must be a rate"),
        ("[policy]\nall = true", "policy.all", "must be a table"),
        ("[policy.'a b']\nall = true", "policy.a b", "must have a name of letters"),
        ("[policy.n.hooks]\nbefore_run = 1", "policy.n.hooks.before_run", "a command or a list"),
        ("[policy.n.notify]\non = ['x']", "policy.n.notify.on", 'must be "failure"'),
        ("[engine]\npassword_file = '/x'\npassword_command = 'y'", "engine.password_command", "exclude"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_right(
    text: str, key: str, said: str, tmp_path: Path
) -> None:
    pitr = _configured(tmp_path, text)
    checked = pitr("config", "check", "--output", "json", code=2)
    problem = checked.json["problems"][0]
    assert (problem["key"], checked.json["ok"]) == (key, False)
    assert said in f"{problem['message']}. {problem['advice']}"
    assert problem["file"] == str(tmp_path / "pitr.toml")
    # Every other command refuses the file in the same words.
    assert problem["message"] in pitr("list", code=2).complaint


def test_check_tells_all_mistakes_at_once(tmp_path: Path) -> None:
    pitr = _configured(
        tmp_path, "jobs = 0\nwrokers = 1\n[policy.n]\nall = 2\nvms = 'web1'\n[engine]\nurl = 3\n"
    )
    found = {problem["key"] for problem in pitr.json("config", "check", code=2)["problems"]}
    assert found == {"jobs", "wrokers", "policy.n.all", "policy.n.vms", "engine.url"}
    assert "'pitr config check' shows 4 more" in pitr("list", code=2).complaint


def test_no_message_holds_a_wrong_value_of_a_notice(tmp_path: Path) -> None:
    pitr = _configured(
        tmp_path, "[policy.n]\nall=true\n[policy.n.notify]\nping = 'hidden'\nurls = 'hidden2'\n"
    )
    result = pitr("config", "check", code=2)
    assert "policy.n.notify.ping must be" in result.stderr and "policy.n.notify.urls" in result.stderr
    assert "hidden" not in result.stderr + result.stdout


def test_a_policy_that_chooses_no_vm_is_a_mistake_of_that_policy_only(tmp_path: Path) -> None:
    pitr = _configured(tmp_path, f"repository = '{tmp_path}/r'\n[policy.n]\ndrills = 1\n")
    assert "chooses no VM" in pitr("config", "check", code=2).stderr
    pitr("init")
    assert pitr.json("list")["points"] == []


def test_check_warns_of_what_is_missing_on_this_machine(tmp_path: Path) -> None:
    pitr = _configured(tmp_path, WHOLE.format(repository=tmp_path / "none"))
    document = pitr.json("config", "check")
    assert document["ok"] and document["problems"] == []
    warned = {warning["key"]: warning["message"] for warning in document["warnings"]}
    assert "does not exist" in warned["repository"] and "TOKEN" in warned["policy.nightly.notify"]
    quiet = pitr.with_environment(TOKEN="x")
    quiet("init")
    assert quiet.json("config", "check")["warnings"] == []


def test_show_tells_where_each_setting_comes_from_and_masks_secrets(tmp_path: Path) -> None:
    pitr = _configured(tmp_path, WHOLE.format(repository=tmp_path / "r"))
    file = str(tmp_path / "pitr.toml")
    result = pitr("config", "show", "--output", "json")
    shown = {each["key"]: (each["value"], each["source"]) for each in result.json["settings"]}
    assert result.json["files"] == [file]
    assert shown["repository"] == (str(tmp_path / "r"), file)
    assert (shown["workers"], shown["jobs"]) == ((2, file), (1, "default"))
    assert shown["engine.url"] == ("https://engine.example.com", file)
    assert shown["policy.nightly.tags"] == (["daily"], file)
    assert shown["policy.nightly.hooks.before_run"] == (["true", "true"], file)
    assert shown["policy.nightly.notify.urls"] == (["json://…"], file)
    assert shown["policy.nightly.notify.ping"] == ("https://hc.example.com/…", file)
    assert "hidden" not in result.stdout + pitr("config", "show").stdout
    other = pitr.with_environment(PITR_REPO="/srv/other", PITR_ENGINE_URL="https://other.example.com")
    shown = {
        each["key"]: (each["value"], each["source"]) for each in other.json("config", "show")["settings"]
    }
    assert shown["repository"] == ("/srv/other", "PITR_REPO")
    assert shown["engine.url"] == ("https://other.example.com", "PITR_ENGINE_URL")
    # The login in the configuration belongs to the engine in the configuration.
    assert "engine.username" not in shown and "engine.password_command" not in shown


@pytest.mark.parametrize("setting", ["'json://localhost/hidden'", "['json://localhost/hidden']"])
def test_notify_can_be_urls(setting: str, tmp_path: Path) -> None:
    pitr = _configured(tmp_path, f"[policy.n]\nall = true\nnotify = {setting}\n")
    assert pitr.json("config", "check")["ok"]
    shown = pitr.json("config", "show")["settings"]
    assert [each["value"] for each in shown if each["key"] == "policy.n.notify"] == [["json://…"]]
    policy = choose_policy(load_settings({"PITR_CONFIG": str(tmp_path / "pitr.toml")}).policies, None)
    assert policy.notices.urls == ("json://localhost/hidden",)


def test_config_file_names_the_only_file_to_read(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(f"repository = '{tmp_path}/other'\n")
    pitr = _configured(tmp_path, "repository = 1")
    pitr("init", "--config-file", other)
    assert pitr.json("--config-file", other, "list")["points"] == []
    assert "not found" in pitr("list", "--config-file", tmp_path / "none.toml", code=2).complaint


def test_each_table_of_one_engine_or_policy_comes_whole_from_one_file(tmp_path: Path) -> None:
    system, user = tmp_path / "system.toml", tmp_path / "pitr" / "config.toml"
    system.write_text(
        "jobs = 2\n[engine]\nurl = 'https://a'\nusername = 'a'\n[policy.n]\nall = true\ndrills = 2\n"
        "[policy.other]\nall = true\n"
    )
    user.parent.mkdir()
    user.write_text("[engine]\nurl = 'https://b'\n[policy.n]\ntags = ['x']\n")
    settings = load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, system)
    assert settings.engine == {"url": "https://b"} and settings.jobs == 2
    assert settings.policies == {"n": {"tags": ["x"]}, "other": {"all": True}}
    assert settings.sources["policy.n.tags"] == user and "policy.n.drills" not in settings.sources


def test_the_policy_without_a_name_is_the_only_one_or_the_default() -> None:
    every = {"all": True}
    assert choose_policy({"nightly": every}, None).name == "nightly"
    assert choose_policy({"nightly": every, "default": every}, None).name == "default"
    for policies, name, said in (
        ({}, None, "no policy"),
        ({"a": every, "b": every}, None, "several policies"),
        ({"a": every}, "b", "no policy 'b'"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            choose_policy(policies, name)
        assert "b" in raised.value.advice or name is None or "a" in raised.value.advice


def test_the_engine_and_the_login_come_from_the_configuration(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 1 << 20)
    environment = lab.environment()
    password = tmp_path / "secret"
    password.write_text(Path(environment["PITR_PASSWORD_FILE"]).read_text())
    engine = {
        "url": environment["PITR_ENGINE_URL"],
        "username": environment["PITR_USERNAME"],
        "password_file": str(password),
        "cafile": environment["PITR_CAFILE"],
    }
    plain = Pitr(
        {
            name: value
            for name, value in pitr.environment.items()
            if name in ("PITR_CONFIG", "PITR_REPO", "COLUMNS")
        }
    )
    file = Path(pitr.environment["PITR_CONFIG"])

    def configure(**changes: str | None) -> None:
        table = {key: value for key, value in {**engine, **changes}.items() if value is not None}
        file.write_text(
            "[engine]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        )

    configure()
    assert len(plain.json("backup", vm.name)["backups"]) == 1
    configure(password_file=None, password_command=f"cat '{password}'")
    assert len(plain.json("backup", vm.name)["backups"]) == 1
    # The same engine, written in another way, gets the login as well.
    same = plain.with_environment(PITR_ENGINE_URL=f"{engine['url'].removesuffix('/')}/ovirt-engine")
    assert len(same.json("backup", vm.name)["backups"]) == 1
    configure(password_file=None, password_command="sh -c 'echo the-password; exit 3'")
    refused = plain("backup", vm.name, code=2)
    assert "sh failed with exit code 3" in refused.complaint and "the-password" not in refused.stderr
    configure(password_file=None)
    assert "'password_file' under [engine]" in plain("backup", vm.name, code=2).complaint
    configure()
    elsewhere = plain.with_environment(PITR_ENGINE_URL="https://127.0.0.1:1")
    assert "user name is missing" in elsewhere("backup", vm.name, code=2).complaint
