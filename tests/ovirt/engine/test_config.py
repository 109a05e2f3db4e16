# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import UsageError
from pitr.ovirt.engine.config import EngineConfig, EngineSettings, api_url, load_config


def load(
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    prompt: Callable[[str], str] | None = None,
    **settings: Any,
) -> EngineConfig:
    return load_config(EngineSettings(**settings), environ=environ, config_file=config_file, prompt=prompt)


def write_section(folder: Path, **keys: str) -> Path:
    path = folder / "ovirt-img.conf"
    path.write_text("[lab]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "https://engine.example.com",
        "https://engine.example.com/",
        "https://engine.example.com/ovirt-engine",
        "https://engine.example.com/ovirt-engine/api/",
    ],
)
def test_the_url_may_end_at_the_host_or_at_the_api(text: str) -> None:
    assert api_url(text) == "https://engine.example.com/ovirt-engine/api"


def test_port_and_ipv6_address_are_kept() -> None:
    assert api_url("https://[fd00::1]:8443") == "https://[fd00::1]:8443/ovirt-engine/api"


@pytest.mark.parametrize(
    "text", ["engine.example.com", "ftp://engine", "https://", "https://engine/other", "https://engine:port"]
)
def test_an_invalid_engine_url_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"engine's URL"):
        api_url(text)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        api_url("https://admin:hunter2@engine.example.com")
    assert "hunter2" not in str(caught.value) + caught.value.advice


def test_the_command_line_beats_the_environment_which_beats_the_section(tmp_path: Path) -> None:
    conf = write_section(tmp_path, engine_url="https://c", username="c", password="100%c")
    secret = tmp_path / "password"
    secret.write_text("from file \nsecond line\n")
    environ = {"PITR_ENGINE_URL": "https://b", "PITR_USERNAME": "b"}
    of_section = load(section="lab", environ={}, config_file=conf)
    assert of_section == EngineConfig("https://c/ovirt-engine/api", "c", "100%c", None, True)
    of_environment = load(section="lab", environ=environ, config_file=conf)
    assert (of_environment.url, of_environment.username) == ("https://b/ovirt-engine/api", "b")
    of_line = load(
        section="lab",
        engine_url="https://a",
        username="a",
        password_file=secret,
        environ=environ,
        config_file=conf,
    )
    assert (of_line.url, of_line.username) == ("https://a/ovirt-engine/api", "a")
    assert of_line.password == "from file "


def test_the_users_file_is_found_through_xdg_config_home_and_home(tmp_path: Path) -> None:
    write_section(tmp_path, engine_url="https://c", username="c", password="c")
    assert load(section="lab", environ={"XDG_CONFIG_HOME": str(tmp_path)}).username == "c"
    home = tmp_path / "home"
    (home / ".config").mkdir(parents=True)
    write_section(home / ".config", engine_url="https://h", username="h", password="h")
    assert load(section="lab", environ={"HOME": str(home)}).username == "h"


def test_a_missing_setting_is_named_by_option_variable_and_key(tmp_path: Path) -> None:
    conf = tmp_path / "none.conf"
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({}, ("--engine-url", "PITR_ENGINE_URL", "engine_url")),
        ({"engine_url": "https://a"}, ("--username", "PITR_USERNAME", "username")),
        (
            {"engine_url": "https://a", "username": "a"},
            ("--password-file", "PITR_PASSWORD_FILE", "password"),
        ),
    ]
    for arguments, names in cases:
        with pytest.raises(UsageError) as caught:
            load(**arguments, environ={}, config_file=conf)
        assert all(name in caught.value.advice for name in (*names, str(conf)))


def test_a_missing_password_is_prompted_for_at_a_terminal(tmp_path: Path) -> None:
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return "typed"

    config = load(engine_url="https://a", username="bob", environ={}, prompt=prompt)
    assert config.password == "typed"
    assert "bob" in asked[0]


def test_the_representation_does_not_show_the_password() -> None:
    assert "hunter2" not in repr(EngineConfig("https://a", "a", "hunter2"))


def test_insecure_comes_from_the_command_line_or_the_section(tmp_path: Path) -> None:
    conf = write_section(tmp_path, engine_url="https://c", username="c", password="c", secure="no")
    assert not load(section="lab", environ={}, config_file=conf).secure
    given: dict[str, Any] = {"engine_url": "https://a", "username": "a", "password_file": conf, "environ": {}}
    assert not load(insecure=True, **given).secure
    conf = write_section(tmp_path, engine_url="https://c", username="c", password="c", secure="perhaps")
    with pytest.raises(UsageError, match=r"must be true or false"):
        load(section="lab", environ={}, config_file=conf)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    given: dict[str, Any] = {"engine_url": "https://a", "username": "a", "environ": {}}
    for arguments in (
        {"password_file": gone},
        {"password_file": tmp_path},
        {"section": "lab", "config_file": gone},
        {"prompt": lambda _: "typed", "cafile": gone},
    ):
        with pytest.raises(UsageError, match=r"cannot read .*: (No such file|Is a directory)") as caught:
            load(**given, **arguments)
        assert str(tmp_path) in str(caught.value)


def test_a_broken_file_is_refused_without_showing_its_lines(tmp_path: Path) -> None:
    conf = tmp_path / "ovirt-img.conf"
    conf.write_text("password: hunter2\n[lab]\n")
    with pytest.raises(UsageError, match=r"not valid") as caught:
        load(section="lab", environ={}, config_file=conf)
    assert "hunter2" not in str(caught.value)


def test_a_missing_section_lists_the_existing_sections(tmp_path: Path) -> None:
    conf = write_section(tmp_path, engine_url="https://c")
    with pytest.raises(UsageError, match=r"section \[other\] not found") as caught:
        load(section="other", environ={}, config_file=conf)
    assert "lab" in caught.value.advice


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(UsageError, match=r"password is empty"):
        load(engine_url="https://a", username="a", password_file=empty, environ={})
