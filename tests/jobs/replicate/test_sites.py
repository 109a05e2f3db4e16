# SPDX-License-Identifier: GPL-2.0-or-later
"""Sites of the configuration: policies copy to them, and the status tells how far each is behind."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr import times
from pitr.lab import Lab
from tests.support import s3
from tests.support.lab import MiB
from tests.support.pitr import Pitr
from tests.support.policies import add_vm, configure, notice_server


@pytest.fixture
def first(tmp_path: Path) -> Pitr:
    """A repository with a point of three days ago, and a configuration with two sites."""
    (tmp_path / "image").write_bytes(b"x" * MiB)
    (tmp_path / "secret").write_text("secret\n")
    first = Pitr(
        {
            "PITR_REPO": str(tmp_path / "first"),
            "PITR_CONFIG": str(tmp_path / "config.toml"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "TZ": "UTC",
            "COLUMNS": "300",
        }
    )
    place = s3.place()
    configure(
        first,
        f'[site.near]\nurl = "{tmp_path}/near"\n'
        f'[site.far]\nurl = "{place.url}"\nendpoint = "{place.endpoint}"\nregion = "us-east-1"\n'
        f'access_key_id = "key"\nsecret_access_key_file = "{tmp_path}/secret"\nmax_behind = "4d"\n',
    )
    first("init")
    add_point(first, tmp_path, 3)
    return first


def add_point(pitr: Pitr, folder: Path, days: float) -> None:
    time = times.to_text(times.now() - timedelta(days=days))
    pitr("import", "raw", folder / "image", "--vm", "web", "--disk", "sys", "--time", time)


def sites_in(document: Any) -> dict[str, Any]:
    return {each["site"] or each["place"]: each for each in document["sites"]}


def url_of(pitr: Pitr, site: str) -> str:
    settings = pitr.json("config", "show")["settings"]
    return next(str(each["value"]) for each in settings if each["key"] == f"site.{site}.url")


def test_the_status_knows_how_far_each_site_is_behind(first: Pitr, tmp_path: Path) -> None:
    found = sites_in(first.json("status", code=1))
    assert {name: (each["state"], each["copied_at"]) for name, each in found.items()} == {
        "near": ("warning", None),
        "far": ("warning", None),
    }
    first("replicate", tmp_path / "first", tmp_path / "near")
    # The settings of the site are found by its URL, here and later.
    far = url_of(first, "far")
    first("replicate", tmp_path / "first", far)
    document = first.json("status")
    assert document["ok"]
    assert {(each["state"], each["behind"], each["behind_s"]) for each in document["sites"]} == {("ok", 0, 0)}
    assert len(first.with_environment(PITR_REPO=far).json("list")["points"]) == 1

    add_point(first, tmp_path, 2.5)
    add_point(first, tmp_path, 1)
    document = first.json("status", code=1)
    found = sites_in(document)
    assert (found["near"]["state"], found["near"]["behind"]) == ("warning", 2)
    assert "site near lacks 2 points, the oldest 2 days" in found["near"]["reasons"][0]
    assert timedelta(days=2.4) < timedelta(seconds=found["near"]["behind_s"]) < timedelta(days=2.6)
    assert (found["far"]["state"], found["far"]["behind"]) == ("ok", 2)
    assert "WARNING: Site near" in first("status", code=1).stdout
    nagios = first("status", "--output", "nagios", code=1).stdout
    assert nagios.startswith("PITR WARNING: site near lacks 2 points") and "\nWARNING site near" in nagios
    # The status of some VMs is not about sites.
    assert "sites" not in first.json("status", "web")


def test_a_copy_that_no_site_names_is_shown_without_a_limit(first: Pitr, tmp_path: Path) -> None:
    configure(first, "")
    first("replicate", tmp_path / "first", tmp_path / "once")
    add_point(first, tmp_path, 2)
    (site,) = first.json("status")["sites"]
    assert (site["site"], site["place"], site["behind"]) == (None, str(tmp_path / "once"), 1)


def test_a_policy_names_only_sites_that_there_are(first: Pitr) -> None:
    Path(first.environment["PITR_CONFIG"]).write_text(
        '[policy.nightly]\nall = true\nkeep_last = 9\nreplicate = ["off"]\n[site.near]\nurl = "/x"\n'
    )
    assert "no site 'off'" in first("config", "check", code=2).complaint
    assert "no site 'off'" in first("run", code=2).complaint


def test_a_run_copies_to_its_sites_and_tells_when_that_fails(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1", "daily")
    add_vm(lab, "web2")
    pitr.backup("web2")
    configure(
        pitr,
        '[policy.nightly]\ntags = ["daily"]\nkeep_last = 3\nreplicate = ["near", "far"]\n'
        f'[site.near]\nurl = "{tmp_path}/near"\n[site.far]\nurl = "{tmp_path}/far"\n',
    )
    planned = pitr.json("run", "--dry-run")
    assert [step["detail"][:12] for step in planned["steps"] if step["step"] == "replicate"] == [
        "would copy 0"
    ] * 2
    document = pitr.json("run")
    steps = [step["step"] for step in document["steps"]]
    assert steps == ["backup", "prune", "prune", "replicate", "replicate"] and document["ok"]
    near = pitr.with_environment(PITR_REPO=str(tmp_path / "near"))
    assert [point["vm"]["name"] for point in near.json("list")["points"]] == ["web1"]
    assert pitr.json("history", "--last", "1")["runs"][0]["steps"][-1]["step"] == "replicate"

    # One site fails: the other one gets its copy, and a notice tells it.
    (tmp_path / "far" / "repository.json").unlink()
    with notice_server() as notices:
        with Path(pitr.environment["PITR_CONFIG"]).open("a") as file:
            file.write(f'[policy.nightly.notify]\nping = "{notices.url}/ping"\n')
        document = pitr.json("run", code=1)
    first, second = (step for step in document["steps"] if step["step"] == "replicate")
    assert first["ok"] and not second["ok"] and "the copy to site far failed" in second["error"]["message"]
    assert len(near.json("list")["points"]) == 2
    path, text = notices.got[-1]
    assert path.endswith("/fail") and "site far" in text
