# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr catalog serve`: requests to the real Datasette over HTTP."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pitr import times
from pitr.jobs import known_damage
from pitr.jobs.serve.catalog_site.metadata import DATABASE, metadata
from pitr.jobs.serve.catalog_site.snapshot import PAUSE_S, Snapshot
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository, drills
from pitr.repository.damage import of_stream
from pitr.repository.drills import DiskFindings, Drill, Finding
from tests.support import browser
from tests.support.pitr import Pitr
from tests.support.points import Writer, backup_of, disk_id, fake_stream, record_path

QUERIES = metadata("r")["databases"][DATABASE]["queries"]
DB = VMName("11111111-0000-4000-8000-000000000002", "db <b>\x1b[31m")
NOW = times.now()


@dataclass(frozen=True, slots=True)
class Site:
    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.read().decode()  # type: ignore[no-any-return]

    def rows(self, path: str, parameters: str = "") -> list[dict[str, Any]]:
        found = json.loads(self.get(f"catalog/{path}.json?_shape=array{parameters}"))
        assert isinstance(found, list), found
        return found


@contextmanager
def _serving(path: Path, folder: Path) -> Iterator[Site]:
    folder.mkdir(exist_ok=True)
    environment = {"PITR_REPO": str(path), "TZ": "UTC", "TMPDIR": str(folder)}
    with Pitr(environment).process("catalog", "serve", "--port", "0", "--output", "json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Site(json.loads(line)["serving"]["url"], process)


def _fill(repository: Repository) -> dict[str, list[Backup]]:
    """Two VMs: one with a chain, an older one with an external blob; a drill of each kind, and known damage."""
    web = Writer(repository)
    old = NOW - timedelta(days=3)
    web.add("1m:A 64k:0", "64k:B", point=old)
    web.add("64k:X 1m:-", "64k:-", point=old + timedelta(days=1))
    web.add("64k:Y 1m:-", "64k:-", point=NOW - timedelta(hours=2))
    stream = replace(fake_stream(3, name="external\x1b[31m"), external="zstd")
    db = backup_of([stream], vm=DB, point=old)
    repository.commit(Record(db, None))
    points = {"web": web.backups, "db": [db]}
    for backup, ok in ((web.backups[0], True), (web.backups[2], False)):
        findings = (Finding("file system", ok, "ext4 <i>"), Finding("partitions", None, "none"))
        drills.add(
            repository.store,
            Drill(
                backup.backup_id,
                backup.vm.id,
                NOW,
                True,
                1500,
                (DiskFindings(disk_id(0), "disk0", findings),),
            ),
        )
    lost = web.backups[1]
    found = of_stream(lost.backup_id, lost.streams[0], "corrupt", "blob", "the blob is <b>damaged</b>")
    known_damage.remember(repository, lost.vm.id, "verify", [found.damage], print)
    return points


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Backup]]]:
    path = tmp_path_factory.mktemp("site") / "repository"
    with Repository.create(path) as repository:
        return path, _fill(repository)


@pytest.fixture(scope="module")
def site(
    filled: tuple[Path, dict[str, list[Backup]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with _serving(filled[0], tmp_path_factory.mktemp("temporary")) as site:
        yield site


def test_every_query_has_an_answer(site: Site) -> None:
    for name, query in QUERIES.items():
        rows = site.rows(name)
        page = site.get(f"catalog/{name}")
        assert query["title"] in page and "error" not in page.split("<h1")[1][:200]
        assert rows, f"{name} answers nothing here"
        assert len(site.get(f"catalog/{name}.csv").splitlines()) == len(rows) + 1


def test_the_queries_tell_what_the_repository_holds(
    site: Site, filled: tuple[Path, dict[str, list[Backup]]]
) -> None:
    web, db = filled[1]["web"], filled[1]["db"]
    per_vm = {row["vm_name"]: row for row in site.rows("points_per_vm")}
    assert (per_vm["web"]["points"], per_vm["web"]["fulls"], per_vm["web"]["incrementals"]) == (3, 1, 2)
    damaged = [row["backup_id"] for row in site.rows("damaged_points")]
    assert damaged == [web[2].backup_id, web[1].backup_id]
    assert {row["vm_name"]: row["damaged_points"] for row in site.rows("vm")}["web"] == 2
    assert per_vm["web"]["stored_bytes"] == sum(backup.stored_bytes for backup in web)
    assert [row["backup_id"] for row in site.rows("newest_points")] == [db[0].backup_id, web[2].backup_id]
    assert [row["vm_name"] for row in site.rows("vms_without_a_backup")] == [DB.name]
    assert site.rows("vms_without_a_backup", "&days=30") == []
    assert {row["vm_name"] for row in site.rows("vms_without_a_backup", "&days=0.05")} == {"web", DB.name}
    growth = site.rows("growth_per_day")
    assert growth[0]["total_bytes"] == sum(backup.stored_bytes for backup in [*web, *db])
    assert sum(row["points"] for row in growth) == 4
    chains = {row["disk_id"]: row for row in site.rows("chain_lengths")}
    assert chains[disk_id(0)]["length"] == 3 and chains[disk_id(3)]["length"] == 1
    assert chains[disk_id(0)]["stored_bytes"] == sum(backup.streams[0].stored_bytes for backup in web)
    largest = site.rows("largest_streams")
    stored = [stream.stored_bytes for backup in [*web, *db] for stream in backup.streams]
    assert [row["blob_size"] for row in largest] == sorted(stored, reverse=True)
    kinds = {row["kind"]: row["streams"] for row in site.rows("streams_by_kind")}
    assert kinds == {"full": 3, "incremental": 4}
    (external,) = site.rows("external_blobs")
    assert (external["external"], external["disk"]) == ("zstd", "external\x1b[31m")
    assert {row["reason"] for row in site.rows("left_out_disks")} == {"no image"}
    proven = {row["backup_id"]: row for row in site.rows("proven_points")}
    assert proven[web[0].backup_id]["ok"] == 1 and proven[web[0].backup_id]["failures"] is None
    assert proven[web[2].backup_id]["ok"] == 0 and proven[web[2].backup_id]["failures"] == "disk0: ext4 <i>"
    assert [row["vm_name"] for row in site.rows("vms_never_rehearsed")] == [DB.name]


def test_tables_are_described_and_faceted(site: Site) -> None:
    described = metadata("r")["databases"][DATABASE]["tables"]
    tables = json.loads(site.get("catalog.json"))
    assert set(described) == {one["name"] for one in tables["tables"] if not one["hidden"]} | {
        one["name"] for one in tables["views"]
    }
    for name, about in described.items():
        page = site.get(f"catalog/{name}")
        assert about["description"].replace("'", "&#39;") in page
        columns = set(json.loads(site.get(f"catalog/{name}.json"))["columns"])
        assert set(about.get("columns", ())) <= columns, f"{name} describes columns that it has not"
        assert set(about.get("facets", ())) <= columns
    facets = json.loads(site.get("catalog/point.json"))["facet_results"]
    assert {one["value"]: one["count"] for one in facets["kind"]["results"]} == {"full": 2, "incremental": 2}


def test_sizes_and_names_are_fit_for_people_and_exact_for_programs(site: Site) -> None:
    page = site.get("catalog/largest_streams")
    row = site.rows("largest_streams")[0]
    assert f'<span title="{row["data_bytes"]:,} bytes">' in page
    assert "external\\x1b[31m" in site.get("catalog/external_blobs") and "\x1b" not in page
    assert "db &lt;b&gt;\\x1b[31m" in site.get("catalog/newest_points")


def test_nothing_can_be_changed(site: Site) -> None:
    for sql in ("DELETE FROM point", "DROP TABLE point", "ATTACH 'x.db' AS x", "PRAGMA query_only = OFF"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.get(f"catalog.json?sql={quote(sql)}")
        assert refused.value.code == 400
    with pytest.raises(urllib.error.HTTPError):
        site.get("catalog.db")
    assert len(site.rows("point")) == 4


def test_a_wrong_query_is_answered_and_fills_no_screen(
    filled: tuple[Path, dict[str, list[Backup]]], tmp_path: Path
) -> None:
    with _serving(filled[0], tmp_path / "temporary") as site:
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.get("catalog.json?sql=SELECT+nix")
        assert "no such column: nix" in refused.value.read().decode()
        site.process.send_signal(signal.SIGTERM)
        out, err = site.process.communicate(timeout=30)
        assert out == "" and len(err.splitlines()) <= 1 and "locals" not in err
        assert site.process.returncode == 0


def test_only_this_machine_is_answered(site: Site) -> None:
    port = site.url.rsplit(":", 1)[1].strip("/")
    assert site.url == f"http://127.0.0.1:{port}/"
    for host in ("localhost", f"127.0.0.1:{port}"):
        assert "catalog" in site.get("", Host=host)
    for host in ("attacker.example", f"attacker.example:{port}", ""):
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.get("", Host=host)
        assert refused.value.code == 403


def test_points_that_come_and_go_are_seen_and_the_end_is_clean(tmp_path: Path) -> None:
    path, temporary = tmp_path / "repository", tmp_path / "temporary"
    with Repository.create(path) as repository:
        writer = Writer(repository)
        writer.add("64k:A")
        with _serving(path, temporary) as site:
            assert len(list(temporary.glob("pitr-catalog-*"))) == 1
            assert len(site.rows("point")) == 1
            added = writer.add("64k:B")
            _wait_for(lambda: len(site.rows("point")) == 2)
            with repository.removing_from_vm(added.vm):
                repository.remove([added])
            _wait_for(lambda: len(site.rows("point")) == 1)
            drill = Drill(writer.backups[0].backup_id, added.vm.id, NOW, False, 1, ())
            drills.add(repository.store, drill)
            _wait_for(lambda: len(site.rows("drill")) == 1)
            # An unreadable catalog is shown in its last state, with a note.
            hidden = path.with_name("hidden")
            path.rename(hidden)
            time.sleep(PAUSE_S)
            assert len(site.rows("point")) == 1
            hidden.rename(path)
            site.process.send_signal(signal.SIGINT)
            _, err = site.process.communicate(timeout=30)
            assert site.process.returncode == 0, err
    assert err.count("cannot update the catalog's pages") >= 1 and "Traceback" not in err
    assert list(temporary.iterdir()) == []


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_rehearsal_that_cannot_be_read_is_told(repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A")
    drills.add(repository.store, Drill(backup.backup_id, backup.vm.id, NOW, True, 1, ()))
    (stored,) = repository.path.glob("drills/*/*/*.json")
    stored.write_bytes(b"{}")
    snapshot = Snapshot(repository.path, tmp_path / "copy.db")
    with sqlite3.connect(snapshot.path) as connection:
        ((ok, message, vm_id),) = connection.execute("SELECT ok, message, vm_id FROM drill").fetchall()
    assert ok is None and message and vm_id == backup.vm.id


def test_damaged_records_and_broken_chains_do_not_stop_it(repository: Repository, tmp_path: Path) -> None:
    writer = Writer(repository)
    writer.add("64k:A")
    writer.add("64k:B")
    record_path(repository, writer.backups[0]).unlink()
    repository.rebuild_catalog()
    snapshot = Snapshot(repository.path, tmp_path / "copy.db")
    with sqlite3.connect(snapshot.path) as connection:
        assert connection.execute("SELECT count(*) FROM stream").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM chain").fetchone() == (0,)
        (row,) = connection.execute(QUERIES["chain_lengths"]["sql"]).fetchall()
    assert row[3] is None


def test_a_port_that_is_taken_is_said(command: Pitr) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = command("catalog", "serve", "--port", str(port), code=5).complaint
    assert complaint.startswith(
        f"pitr: another program listens on port {port} of 127.0.0.1 already. Stop it, or name"
    )
    assert (
        "cannot listen on the address"
        in command("catalog", "serve", "--host", "no such host", code=2).complaint
    )


def test_no_repository_is_said_before_anything_is_served(command: Pitr, tmp_path: Path) -> None:
    missing = command.with_environment(PITR_REPO=str(tmp_path / "nothing"))
    assert "there is no repository" in missing("catalog", "serve", "--port", "0", code=1).complaint


def test_the_missing_extra_is_named(command: Pitr, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "datasette"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasette", None)
    complaint = command("catalog", "serve", "--port", "0", code=1).complaint
    assert "Datasette, which is not installed" in complaint and "pip install 'pitr[web]'" in complaint


@browser.needed
def test_it_opens_in_a_browser(site: Site) -> None:
    seen = browser.look(f"{site.url}catalog/point")
    assert seen.console == []
    assert re.search(r"4 rows\s+sorted by point descending", seen.dom)
    assert len({tuple(pixel) for pixel in seen.pixels[::20, ::20].reshape(-1, 3).tolist()}) > 5
