# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands on a sealed repository: with its recipients alone, with an identity, with the wrong one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pitr.repository import canonical
from pitr.repository.sealing.keys import Identity
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, BOB, EVE, VM_NAME, SealedPlace

_RESTORE_BLOB = Path(__file__).parents[3] / "docs/examples/restore_blob.py"


@pytest.fixture
def host(sealed: SealedPlace) -> Pitr:
    """Run pitr on the host that made the repository."""
    return _host(sealed, "state")


def _exported(host: Pitr, sealed: SealedPlace) -> str:
    """Export a disk with an identity, and return the path of the stream."""
    path = str(sealed.folder / "disk.sparse")
    disk, key = next(iter(sealed.vm.disks)), str(sealed.key(ALICE))
    host("export", "--at", "now", "--disk", disk, "--identity", key, "--to", path)
    return path


def _host(sealed: SealedPlace, state: str) -> Pitr:
    folder = str(sealed.folder / state)
    return Pitr({"PITR_REPO": str(sealed.path), "TZ": "UTC", "COLUMNS": "140", "XDG_STATE_HOME": folder})


def test_without_an_identity_list_shows_ids(host: Pitr, sealed: SealedPlace) -> None:
    for names in ((), (sealed.vm.id,)):
        points = host("list", *names, "-o", "json").json["points"]
        assert [point["vm"] for point in points] == [{"id": sealed.vm.id, "name": None}] * 2
        assert {disk["name"] for point in points for disk in point["disks"]} == {None}
    assert sealed.vm.id[:8] in host("list").stdout
    assert host("status", "-o", "json").json["vms"][0]["vm"] == {"id": sealed.vm.id, "name": None}


def test_with_an_identity_list_shows_names(host: Pitr, sealed: SealedPlace) -> None:
    key = sealed.key(BOB)
    points = host("list", VM_NAME, "--identity", str(key), "-o", "json").json["points"]
    assert {point["vm"]["name"] for point in points} == {VM_NAME}
    host.environment["PITR_IDENTITY_FILE"] = str(key)
    assert VM_NAME in host("list").stdout


def test_restore_needs_an_identity_and_writes_nothing_without_one(host: Pitr, sealed: SealedPlace) -> None:
    target = sealed.folder / "images"
    restore = ("restore", "--at", "now", "--to-file", str(target))
    for key in ((), ("--identity", str(sealed.key(EVE)))):
        refused = host(*restore, *key, code=1)
        assert not target.exists()
        lines = refused.stderr.splitlines()
        assert len(lines) <= 4
        assert all(each.recipient.fingerprint in refused.stderr for each in (ALICE, BOB))
    host(*restore, "--format", "raw", "--identity", str(sealed.key(ALICE)))
    restored = sorted(path.read_bytes() for path in target.iterdir())
    assert restored == sorted(list(sealed.stored.contents.values())[-1].values())


def test_a_folder_with_data_that_is_not_sealed_is_never_a_surprise(host: Pitr, sealed: SealedPlace) -> None:
    cache = sealed.folder / "cache"
    serve = ("serve", "--at", "now", "--cache-dir", str(cache), "--run", "nbdcopy ${NBD_URIS%% *} null:")
    host(*serve, code=1)
    assert [path.name for path in cache.glob("*/*")] == ["CACHEDIR.TAG"]
    served = host(*serve, "--identity", str(sealed.key(ALICE)))
    assert f"warning: the repository is sealed, but {cache} will hold data that is not" in served.stderr
    kept = {path.read_bytes()[:4096] for path in cache.glob("*/*") if len(path.name) == 64}
    disks = list(sealed.stored.contents.values())[-1].values()
    assert kept and all(any(data in content for content in disks) for data in kept)


def test_another_host_writes_only_after_it_trusted_the_recipients(sealed: SealedPlace) -> None:
    other = _host(sealed, "other")
    assert len(other("list", "-o", "json").json["points"]) == 2
    command = ("import", _exported(other, sealed), "--vm", "new", "--disk", "system")
    refused = other(*command, code=1)
    assert "--trust-recipients" in refused.stderr
    assert len(other("list", "-o", "json").json["points"]) == 2
    other(*command, "--trust-recipients")
    other("verify")
    assert len(other("list", "-o", "json").json["points"]) == 3


def test_a_swapped_recipient_is_refused(host: Pitr, sealed: SealedPlace) -> None:
    path = sealed.path / "keys/000001.json"
    document = canonical.parse(path.read_bytes())
    del document["digest"]
    document["recipients"][1] = str(EVE.recipient)
    path.chmod(0o600)
    path.write_bytes(canonical.encode(document))
    refused = host("import", _exported(host, sealed), "--vm", "new", "--disk", "system", code=1)
    assert EVE.recipient.fingerprint in refused.stderr and BOB.recipient.fingerprint in refused.stderr
    assert not [each for each in sealed.path.rglob("*.age") if EVE.recipient.fingerprint in str(each)]


def test_recipients_are_added_removed_and_rotated(host: Pitr, sealed: SealedPlace) -> None:
    new = Identity.generate()
    added = host("key", "add", str(new.recipient), "-o", "json").json
    assert added["epoch"] == 2 and len(added["recipients"]) == 3
    key = str(sealed.key(new))
    assert host("key", "check", "--identity", key).code == 0
    removed = host("key", "remove", ALICE.recipient.fingerprint, "-o", "json").json
    assert removed["epoch"] == 3 and len(removed["recipients"]) == 2
    assert host("key", "check", "--identity", str(sealed.key(ALICE)), code=1).code == 1
    listed = host("key", "list", "-o", "json").json["epochs"]
    assert [epoch["epoch"] for epoch in listed] == [1, 2, 3] and listed[-1]["trusted"]
    host("key", "rotate", "--encrypt", str(new.recipient), code=2)
    host("key", "rotate", "--encrypt", str(new.recipient), "--encrypt", str(EVE.recipient))
    # What was stored before still opens for its recipients.
    points = host("list", "-o", "json", "--identity", str(sealed.key(BOB))).json["points"]
    assert {point["vm"]["name"] for point in points} == {VM_NAME}


def test_init_makes_a_second_identity_and_stores_it_nowhere(host: Pitr, sealed: SealedPlace) -> None:
    folder = sealed.folder / "second"
    del host.environment["PITR_REPO"]
    made = host("init", str(folder), "--encrypt", str(ALICE.recipient), "-o", "json").json
    identity = Identity.parse(made["repository"]["new_identity"])
    assert made["repository"]["recipients"] == [str(ALICE.recipient), str(identity.recipient)]
    for path in sealed.folder.rglob("*"):
        if path.is_file():
            assert identity.secret().encode() not in path.read_bytes()


@pytest.mark.skipif(shutil.which("age") is None, reason="the program age is missing; 'make test' installs it")
def test_age_zstd_and_thirty_lines_of_python_restore_a_point(sealed: SealedPlace, tmp_path: Path) -> None:
    key = sealed.key(BOB)
    disk_id = next(iter(sealed.vm.disks))
    blobs = sorted((sealed.path / "blobs" / disk_id).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    opened = []
    for number, blob in enumerate(blobs):
        path = tmp_path / f"{number}.sparse.zst"
        with path.open("wb") as file:
            subprocess.run(["age", "-d", "-i", str(key), str(blob)], stdout=file, check=True)
        opened.append(str(path))
    disk = tmp_path / "disk.raw"
    subprocess.run([sys.executable, str(_RESTORE_BLOB), str(disk), *opened], check=True)
    assert disk.read_bytes() == list(sealed.stored.contents.values())[-1][disk_id]


def test_without_an_identity_prune_keeps_what_kept_points_need(host: Pitr, sealed: SealedPlace) -> None:
    host("prune", "--keep-last", "1")
    host("verify")
    assert len(host("list", "-o", "json").json["points"]) == 2
    host("prune", "--keep-last", "1", "--identity", str(sealed.key(ALICE)))
    host("verify", "--identity", str(sealed.key(ALICE)))
    host("verify")
    key = ("--identity", str(sealed.key(BOB)))
    assert len(host("list", "-o", "json", *key).json["points"]) == 1
    assert len(host("list", "-o", "json").json["points"]) == 1
    target = sealed.folder / "images"
    host("restore", "--at", "now", "--to-file", str(target), "--format", "raw", *key)
    restored = sorted(path.read_bytes() for path in target.iterdir())
    assert restored == sorted(list(sealed.stored.contents.values())[-1].values())


@pytest.mark.parametrize(
    "command",
    [
        ("export", "--at", "now", "--disk", "DISK", "--to", "FILE"),
        ("extents", "--at", "now", "--disk", "DISK"),
        ("diff", "--point", "FIRST", "--point", "NEWEST"),
        ("drill", "--at", "now"),
        ("files", "ls", "--at", "now"),
        ("files", "cp", "--at", "now", "/etc", "FILE"),
        ("files", "find", "--at", "now", "*.conf"),
        ("consolidate", "--at", "now"),
        ("restore", "--at", "now", "--to-file", "FILE", "--dry-run"),
        ("key", "check"),
    ],
    ids=" ".join,
)
def test_what_reads_content_is_refused_in_one_line(
    host: Pitr, sealed: SealedPlace, command: tuple[str, ...]
) -> None:
    target = sealed.folder / "target"
    first, newest = sealed.stored.contents
    words = {"DISK": next(iter(sealed.vm.disks)), "FILE": str(target), "FIRST": first, "NEWEST": newest}
    refused = host.run(*(words.get(word, word) for word in command))
    assert refused.code == 1, refused
    assert ALICE.recipient.fingerprint in refused.complaint
    assert not target.exists()


def test_a_lost_record_is_made_again_from_blobs_with_an_identity(host: Pitr, sealed: SealedPlace) -> None:
    newest = list(sealed.stored.contents)[-1]
    record = next((sealed.path / "backups").rglob(f"*-{newest}.json"))
    record.unlink()
    host("catalog", "rebuild", "--from-blobs", code=1)
    assert not record.exists()
    key = ("--identity", str(sealed.key(BOB)))
    host("catalog", "rebuild", "--from-blobs", *key)
    assert record.exists()
    assert sealed.vm.name.encode() not in record.read_bytes()
    host("verify", *key)
    # The catalog without names remembers the lost record.
    host("catalog", "rebuild")
    host("verify")
