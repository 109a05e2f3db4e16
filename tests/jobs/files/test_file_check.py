# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files check`: encrypted files and names of ransomware, and what `status`, `list` and `show` say of them."""

from __future__ import annotations

import random
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.guest.file_types import fits, is_text, judged_extension
from pitr.guest.ransom_names import is_ransom_name
from pitr.model import Backup
from pitr.repository import Repository, content_checks, names
from tests.support.guest_images import run
from tests.support.pitr import Pitr
from tests.support.points_of_images import AT, store_states

_HEADS = {
    "docx": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00",
    "pdf": b"%PDF-1.7\n",
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "xls": bytes.fromhex("d0cf11e0a1b11ae1"),
    "gz": b"\x1f\x8b\x08\x00",
    "mp4": b"\x00\x00\x00\x24ftypavc1",
    "exe": b"MZ\x90\x00",
}


def _office(folder: Path) -> Path:
    """A guest with documents, photos and texts, whose content fits their types."""
    chance = random.Random(3)
    (folder / "srv/anna").mkdir(parents=True)
    for number in range(10):
        for extension, head in _HEADS.items():
            (folder / f"srv/anna/file{number}.{extension}").write_bytes(head + chance.randbytes(3000))
        (folder / f"srv/anna/notes{number}.txt").write_text(f"Note {number}: grüße\n" * 50)
    return folder


def _encrypt(folder: Path, *, share: float, ending: str = "") -> None:
    chance = random.Random(4)
    victims = sorted((folder / "srv/anna").iterdir())
    for path in victims[: round(share * len(victims))]:
        path.write_bytes(chance.randbytes(path.stat().st_size))
        path.rename(path.with_name(path.name + ending))


def _image(folder: Path, kind: str = "ext4") -> bytes:
    image = folder.with_suffix(".image")
    image.unlink(missing_ok=True)
    run("truncate", "-s", "8M", image)
    run("mke2fs", "-q", "-F", "-t", kind, "-d", folder, image)
    return image.read_bytes()


Guests = Callable[..., list[Backup]]


@pytest.fixture
def guests(repository: Repository, tmp_path: Path) -> Guests:
    """Store points of the same guest, each changed by one of these functions."""

    def stored(*changes: Callable[[Path], None]) -> list[Backup]:
        folder = _office(tmp_path / "office")
        states = []
        for change in changes:
            change(folder)
            states.append([_image(folder)])
        return store_states(repository, states)

    return stored


def _nothing(folder: Path) -> None:
    pass


def test_an_encrypted_guest_is_unusual_and_the_point_before_is_not(guests: Guests, command: Pitr) -> None:
    clean, encrypted = guests(_nothing, lambda folder: _encrypt(folder, share=0.5))
    document = command.json("files", "check", "web", "--at", AT[0])
    assert (document["misfits"], document["sample"], document["typed_files"]) == (0, 90, 90)
    assert document["unusual"] == [] and document["complete"] and document["usual_share"] is None
    assert command.json("status")["vms"][0]["unusual"] == []
    document = command.json("files", "check", "web", "--exit-code", code=1)
    assert document["backup_id"] == encrypted.backup_id
    assert document["share"] == 0.5 and document["usual_share"] == 0
    assert document["compared_with"] == [clean.backup_id]
    unusual = [{"what": "content", "value": 0.5, "usual": 0}]
    assert document["unusual"] == unusual
    assert (
        len(document["misfit_files"]) == 20 and document["misfit_files"][0]["path"] == "/srv/anna/file0.docx"
    )
    # All that people and scripts look at says it.
    (vm,) = command.json("status", code=1)["vms"]
    assert vm["unusual"] == unusual and vm["state"] == "warning" and "do not fit" in vm["reasons"][0]
    points = command.json("list", "web")["points"]
    assert [point["unusual"] for point in points] == [unusual, []]
    assert "UNUSUAL: 50% of the files" in command("show", encrypted.backup_id).stdout
    assert "unusual" in command("list", "web").stdout
    warned = command("restore", "--point", encrypted.backup_id, "--to-file", "x.raw", "--dry-run").stderr
    assert "is unusual" in warned and clean.backup_id in warned


def test_without_an_earlier_check_the_oldest_point_is_checked(guests: Guests, command: Pitr) -> None:
    clean, *_ = guests(_nothing, _nothing, lambda folder: _encrypt(folder, share=0.2))
    document = command.json("files", "check", "web")
    assert document["compared_with"] == [clean.backup_id] and document["unusual"][0]["what"] == "content"
    assert command("files", "check", "web").stdout.count("usually 0.0%, from 1 earlier point") == 1


def test_a_guest_that_always_had_such_files_is_usual(guests: Guests, command: Pitr) -> None:
    guests(lambda folder: _encrypt(folder, share=0.3), _nothing)
    assert command.json("files", "check", "web")["unusual"] == []


def test_the_status_keeps_the_finding_until_a_newer_point_is_clean(
    guests: Guests, command: Pitr, tmp_path: Path
) -> None:
    def repair(folder: Path) -> None:
        shutil.rmtree(folder)
        _office(folder)

    guests(_nothing, lambda folder: _encrypt(folder, share=0.5), repair)
    command("files", "check", "web", "--at", AT[1])
    # Neither an unchecked newer point nor a look at an older one says that all is well.
    command("files", "check", "web", "--at", AT[0])
    assert command.json("status", code=1)["vms"][0]["unusual"][0]["what"] == "content"
    command("files", "check", "web")
    assert command.json("status")["vms"][0]["unusual"] == []


def test_names_of_ransomware_are_unusual(guests: Guests, command: Pitr) -> None:
    def attack(folder: Path) -> None:
        _encrypt(folder, share=0.1, ending=".lockbit")
        (folder / "srv/anna/HOW_TO_DECRYPT_FILES.txt").write_text("pay")

    guests(_nothing, attack)
    document = command.json("files", "check", "web")
    assert {"what": "names", "value": 10, "usual": 0} in document["unusual"] and document["names"] == 10
    assert "10 names of files are those of ransomware" in command("files", "check", "web").stdout


def test_the_sample_is_bounded_and_the_same_each_time(guests: Guests, command: Pitr) -> None:
    guests(lambda folder: _encrypt(folder, share=0.5))
    one, other = (command.json("files", "check", "web", "--sample", "30") for _ in range(2))
    assert one["sample"] == 30 and one["typed_files"] == 90 and one["files"] == 90
    assert one["misfit_files"] == other["misfit_files"] and 0.25 < one["share"] < 0.75
    assert "a sample of 30 of 90 files" in command("files", "check", "web", "--sample", "30").stdout


def test_results_go_with_their_points(
    guests: Guests, repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    first, second = guests(_nothing, lambda folder: _encrypt(folder, share=0.5))
    for backup in (first, second):
        command("files", "check", "web", "--point", backup.backup_id)
    command("replicate", repository.path, tmp_path / "copy")
    copy = command.with_environment(PITR_REPO=str(tmp_path / "copy"))
    assert copy.json("status", code=1)["vms"][0]["unusual"][0]["what"] == "content"
    command("forget", second.backup_id)
    stored = list(repository.store.list(names.contents_of(None)))
    assert len(stored) == 1 and first.backup_id in stored[0]
    result = content_checks.read(repository.store, stored[0])
    assert (result.sampled, result.misfits, result.unusual) == (90, 0, ())


def test_a_missing_library_is_named(guests: Guests, command: Pitr, monkeypatch: pytest.MonkeyPatch) -> None:
    from pitr.guest import file_types

    guests(_nothing)
    file_types._library.cache_clear()
    monkeypatch.setitem(sys.modules, "puremagic", None)
    refused = command("files", "check", "web", code=1)
    assert "puremagic" in refused.complaint and "pitr[files]" in refused.complaint


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("report.docx", "docx"),
        ("REPORT.PDF", "pdf"),
        ("report.docx.x7kq", "docx"),
        ("photo.jpg.id-1[a@b.org].abc", None),
        ("archive.tar.gz.asc", None),
        ("disk.7z.001", None),
        ("notes.txt.gpg", None),
        (".txt", None),
        ("Makefile", None),
    ],
)
def test_a_name_says_how_a_file_is_judged(name: str, extension: str | None) -> None:
    assert judged_extension(name) == extension


def test_real_heads_fit_and_noise_does_not() -> None:
    noise = random.Random(5).randbytes(4096)
    for extension, head in _HEADS.items():
        assert fits(extension, head + noise[:1000]), extension
        assert not fits(extension, noise), extension
    # A document with a password, and a table that is a web page.
    assert fits("docx", _HEADS["xls"] + noise) and fits("xls", b"<html><table>" * 20)
    assert not fits("pdf", bytes(4096)) and not fits("docx", bytes(4096))


def test_texts_are_texts_in_any_encoding() -> None:
    text = "Grüße aus Köln: 100 €\r\n" * 30
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-8-sig"):
        assert is_text(text.encode(encoding)), encoding
    assert is_text("漢字かな交じり文\n".encode("shift-jis") * 20)
    assert is_text("Привет\n".encode("koi8-r") * 20)
    noise = random.Random(6)
    assert sum(is_text(noise.randbytes(512)) for _ in range(500)) == 0
    assert not is_text(bytes(4096)) and not is_text(zlib.compress(text.encode() + noise.randbytes(3000)))
    assert not is_text(struct.pack("<512d", *[1.5] * 512))


@pytest.mark.parametrize(
    "name",
    [
        "report.docx.lockbit",
        "a.WNCRY",
        "table.xlsx.locked",
        "x.pdf.id-1A2B3C4D.[mail@example.com].devil",
        "HOW_TO_DECRYPT.txt",
        "Restore-My-Files.txt",
        "README_FOR_DECRYPT.txt",
        "@Please_Read_Me@.txt",
        "DECRYPT_INSTRUCTIONS.html",
        "RECOVER-abcd123-FILES.txt",
        "akira_readme.txt",
        "Your files are encrypted!.txt",
        "HOW_TO_RESTORE_FILES.html",
        "_HELP_INSTRUCTION.html",
    ],
)
def test_known_names(name: str) -> None:
    assert is_ransom_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "Gemfile.lock",
        "README.txt",
        "readme.md",
        "yarn.lock",
        "secret.txt.gpg",
        "notes.enc",
        "door.locked",
        ".locked",
        "decrypt.c",
        "recovery.conf",
        "mail@example.com",
        "files.txt",
        "help.html",
        "restore.sh",
        "how-to.txt",
        "user.play",
        "install_readme.txt",
        "how-to-recover.html",
        "mails.anna@example.com.eml",
        "help-instructions.html",
    ],
)
def test_harmless_names(name: str) -> None:
    assert not is_ransom_name(name)
