# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of `pitr diff --html`, in a real browser."""

from __future__ import annotations

import html
import json
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pitr.extents import ExtentMap
from pitr.jobs.diff.cells import Cells
from pitr.jobs.diff.page import _document, render
from pitr.jobs.diff.picture import cells_for, draw
from pitr.jobs.diff.two_points import DiskDiff
from pitr.model import Backup, VMName
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain
from pitr.repository.layers import LayerSource
from pitr.repository.resolver import Layer, resolve
from tests.support import browser
from tests.support.pitr import Pitr
from tests.support.points import VM, Writer, backup_of, fake_stream

MiB = 1 << 20
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">'\x1b[31m\u202e\u2028 &amp;"


def _points(repository: Repository) -> list[Backup]:
    """Two disks of a VM with a hostile name; a full and two incrementals."""
    writer = Writer(repository, VMName(VM.id, HOSTILE))
    writer.add("1m:A 1m:0 2m:B", "1m:C 1m:0")
    writer.add("256k:- 256k:X 512k:- 1m:Y 512k:0 1536k:-", "2m:-")
    writer.add("3m:- 64k:Z 960k:- 1m:-", "1m:- 64k:D 960k:-")
    return writer.backups


def _command(repository: Repository) -> Pitr:
    return Pitr({"PITR_REPO": str(repository.path), "TZ": "UTC"})


@pytest.fixture
def points(repository: Repository) -> list[Backup]:
    return _points(repository)


def _page(command: Pitr, points: list[Backup], path: Path, first: int = 0, last: int = -1) -> Path:
    command("diff", "--point", points[first].backup_id, "--point", points[last].backup_id, "--html", path)
    return path


def _data(page: Path) -> Any:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    return json.loads(found[1])


def _body(seen: browser.Seen) -> ElementTree.Element:
    """What the scripts have made, without what they were made from. Chromium writes it as it would read it."""
    main = re.search(r'<main id="page">.*?</main>', seen.dom, re.DOTALL)
    assert main is not None, "nothing was drawn"
    return ElementTree.fromstring(  # noqa: S314 - Chromium has written it
        re.sub(r"&nbsp;", " ", re.sub(r'(<input\b[^>]*?)(?: checked="")?>', r"\1/>", main[0]))
    )


def _by_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in root.iter() if name in (one.get("class") or "").split()]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> browser.Seen:
    """The page of these points on a desktop, with what is different."""
    return _look(tmp_path_factory.mktemp("wide"), "#different", width=1280)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> browser.Seen:
    """On a phone at night, row by row."""
    return _look(tmp_path_factory.mktemp("narrow"), "#different,rows", width=390, dark=True)


def _look(folder: Path, asked: str, **how: Any) -> browser.Seen:
    with Repository.create(folder / "repository") as repository:
        points = _points(repository)
        page = _page(_command(repository), points, folder / "page.html")
    return browser.look(page.as_uri() + asked, height=1500, **how)


@browser.needed
def test_it_draws_what_the_points_hold(wide: browser.Seen) -> None:
    assert wide.console == []
    body = _body(wide)
    # The disk of 5 MiB in cells of 4 KiB; what it holds now: A X A Y 0 B, and Z in what it has grown by.
    kinds = np.zeros(5 * MiB // 4096, np.bool_)
    kinds[: 2 * MiB // 4096] = True
    kinds[5 * MiB // 2 // 4096 : 4 * MiB // 4096] = True
    drawn = {int(one.get("data-cell") or -1) for one in _by_class(body, "cell")}
    assert drawn == set(np.flatnonzero(kinds).tolist())
    different = {int(cell) for one in _by_class(body, "different") if (cell := one.get("data-cell"))}
    cells = [range(64, 128), range(256, 512), range(768, 784)]
    assert different == {cell for part in cells for cell in part}
    # A ring for each cell that was emptied: 512 KiB in the middle of B.
    rings = _by_class(body, "emptied")[0].get("d") or ""
    assert rings.count("M") == 512 // 4
    # Both disks, every point, each stream of the chain, and the rates between them.
    assert len([one for one in body.iter("tr") if one.get("data-disk")]) == 2
    assert len(_by_class(body, "point")) == 3
    assert len([one for one in body.iter("button") if one.get("data-layer")]) == 3
    assert len(_by_class(body, "rate")) == 2
    text = " ".join(body.itertext())
    assert "2020-06-30 00:00:00 UTC" in text and "1.31 MiB" in text and "512 KiB" in text


@browser.needed
@pytest.mark.parametrize("which", ["wide", "narrow"])
def test_it_looks_like_something(which: str, request: pytest.FixtureRequest) -> None:
    seen: browser.Seen = request.getfixturevalue(which)
    assert seen.console == []
    pixels = seen.pixels.reshape(-1, 3).astype(int)
    paper = np.array([0x10, 0x13, 0x17] if which == "narrow" else [0xF7, 0xF8, 0xF9])
    assert (pixels == paper).all(axis=1).sum() > len(pixels) // 50
    red, green, blue = pixels.T
    for colour in (
        (red > 160) & (green < 160) & (blue < 100),
        (blue > 120) & (red < 120) & (blue > red + 40),
    ):
        assert colour.sum() > 500, "the colours of what is different and of the backups are not there"
    assert len(np.unique(red << 16 | green << 8 | blue)) > 50


@browser.needed
@pytest.mark.parametrize(("which", "steps"), [("wide", {1}), ("narrow", {1, 64})])
def test_cells_that_follow_each_other_are_neighbours_on_a_hilbert_curve(
    which: str, steps: set[int], request: pytest.FixtureRequest
) -> None:
    cells = {
        int(one.get("data-cell") or -1): (
            int(float(one.get("x") or 0)) // 10,
            int(float(one.get("y") or 0)) // 10,
        )
        for one in _by_class(_body(request.getfixturevalue(which)), "cell")
    }
    assert len(set(cells.values())) == len(cells) > 800
    found = {
        abs(column - cells[n + 1][0]) + abs(row - cells[n + 1][1])
        for n, (column, row) in cells.items()
        if n + 1 in cells
    }
    assert found == steps


@browser.needed
def test_names_from_outside_stay_text(
    wide: browser.Seen, command: Pitr, points: list[Backup], tmp_path: Path
) -> None:
    text = _page(command, points, tmp_path / "page.html").read_text()
    assert text.count("</script>") == 2 and "<img" not in text
    assert not any(char in text for char in "\x1b\u202e\u2028")
    assert "owned" in wide.dom and "<title>owned" not in wide.dom and "<img" not in wide.dom
    heading = next(_body(wide).iter("h1")).text or ""
    assert heading.startswith("</script><img src=x onerror=") and "\\x1b[31m\\u202e\\u2028" in heading


@browser.needed
def test_nothing_is_fetched_and_no_other_script_runs(
    command: Pitr, points: list[Backup], tmp_path: Path
) -> None:
    text = _page(command, points, tmp_path / "page.html").read_text()
    addresses = set(re.findall(r"\bhttps?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"\b(?:src|href)=|url\(|@import|fetch\(|XMLHttpRequest|import\(",
        re.sub(r"<title>.*?</title>", "", text.split('id="data"')[0]),
    )
    with _Listener() as listener:
        image = (
            f'<img src="http://127.0.0.1:{listener.port}/"><script>document.title = "mine"</script></body>'
        )
        free = re.sub(r"<meta http-equiv.*?>", "", text)
        assert free != text
        titles = []
        for name, page in (("bound", text), ("free", free)):
            path = tmp_path / f"{name}.html"
            path.write_text(page.replace("</body>", image))
            seen = browser.look(path.as_uri())
            titles.append(re.search(r"<title>(.*?)</title>", seen.dom, re.DOTALL)[1] == "mine")  # type: ignore[index]
            listener.counts.append(listener.connections)
    # The same page without its policy does both: so this would have been seen.
    assert titles == [False, True]
    assert listener.counts[0] == 0 and listener.counts[1] > 0


#: What a person does, and what the page then says; it runs in a copy that lets other scripts run.
_USE = """<script>
const told = [], say = () => document.getElementById("announcement").textContent, tip = document.getElementById("tip");
const press = (what, key) => what.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const map = () => document.querySelector("svg.map");
press(map(), "Home"); told.push(say());
press(map(), "ArrowDown"); press(map(), "ArrowLeft"); told.push(say(), tip.hidden);
press(document.body, "Escape"); told.push(tip.hidden);
const box = map().getBoundingClientRect();
map().dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 1, clientY: box.top + 1 }));
told.push(tip.textContent.split("\\n")[0]);
document.getElementById("show-different").click();
told.push(document.querySelectorAll("svg.map .different").length, document.activeElement.id);
document.querySelector("input[value=rows]").click();
const second = document.querySelector('svg.map [data-cell="1"]');
told.push(second.getAttribute("x"), second.getAttribute("y"));
document.querySelectorAll("button[data-layer]")[0].click();
told.push(document.querySelectorAll(".cell:not(.aside)").length);
document.querySelectorAll("tr[data-disk] button")[1].click();
told.push(document.querySelector("#map h2").textContent, document.querySelectorAll(".aside").length);
for (const chart of document.querySelectorAll("#points svg, #rate svg")) { press(chart, "End"); told.push(say()); }
document.documentElement.dataset.told = JSON.stringify(told);
</script></body>"""


@browser.needed
def test_it_answers_to_keys_and_pointer(command: Pitr, points: list[Backup], tmp_path: Path) -> None:
    text = _page(command, points, tmp_path / "page.html").read_text()
    path = tmp_path / "used.html"
    path.write_text(re.sub(r"<meta http-equiv.*?>", "", text).replace("</body>", _USE))
    seen = browser.look(path.as_uri())
    assert seen.console == []
    found = re.search(r'data-told="(.*?)"', seen.dom)
    assert found is not None, "the script has failed"
    told = json.loads(html.unescape(found[1]))
    first, beside, shown, hidden, pointed, different, focused, x, y, alone, name, aside, *charts = told
    assert first.startswith(
        "0 B to 4 KiB. bytes 0 to 4\u202f095. 4\u202f096 data from 2020-06-29 22:00:00 UTC (full "
    )
    assert first.endswith("The same at both points")
    # One row down and one to the left of where the curve begins: it goes no further than the edge.
    assert beside.startswith("4 KiB to 8 KiB.") or beside.startswith("12 KiB to 16 KiB.")
    assert (shown, hidden, pointed) == (False, True, "0 B to 4 KiB")
    assert different == (256 + 1024 + 64) // 4 and focused == "show-different"
    assert (float(x), float(y)) == (10.5, 0.5)
    # Only what the last backup wrote is left, and all of the other disk is shown again.
    assert alone == 64 // 4
    assert (name, aside) == ("disk1", 0)
    assert charts[0].startswith("2020-06-30 00:00:00 UTC. incremental") and "bytes)" in charts[0]
    assert "a day (" in charts[1]


class _Listener:
    """Counts who connects."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> _Listener:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_the_numbers_of_the_page_are_exact(command: Pitr, points: list[Backup], tmp_path: Path) -> None:
    page = _page(command, points, tmp_path / "page.html")
    told = command.json("diff", "--point", points[0].backup_id, "--point", points[2].backup_id)
    data = _data(page)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    for disk, of_page in zip(told["disks"], data["disks"], strict=True):
        picture = of_page["picture"]
        assert {
            key: of_page[key] for key in ("size_before", "size_after", "data_bytes", "zero_bytes", "extents")
        } == {key: disk[key] for key in ("size_before", "size_after", "data_bytes", "zero_bytes", "extents")}
        assert sum(picture["different_data"]) == disk["data_bytes"]
        assert sum(picture["different_zero"]) == disk["zero_bytes"]
        assert sum(link[4] for link in picture["links"]) == sum(picture["data"])
        live = sum(link[4] + link[5] for link in picture["links"]) + picture["never_written"]
        assert live == picture["size"] == disk["size_after"]
    assert [bar[4] for bar in data["bars"]] == [point.stored_bytes for point in points]
    # An incremental of an hour that holds 1.75 MiB of this disk, as a rate of a day.
    assert (
        data["disks"][0]["rates"][0][2]
        == 24 * points[1].streams[0].data_bytes + 24 * points[1].streams[0].zero_bytes
    )


def test_no_file_is_written_over_and_none_is_left_behind(
    command: Pitr, points: list[Backup], tmp_path: Path
) -> None:
    page = _page(command, points, tmp_path / "page.html")
    before = page.read_bytes()
    pair = ("--point", points[0].backup_id, "--point", points[1].backup_id)
    assert "already exists" in command("diff", *pair, "--html", page, code=2).complaint
    assert page.read_bytes() == before
    command("diff", *pair, "--html", tmp_path / "no" / "page.html", code=1)
    command("diff", *pair, "--disk", "nix", "--html", tmp_path / "other.html", code=4)
    assert sorted(path.name for path in tmp_path.glob("*.html*")) == ["page.html"]


def test_a_disk_that_is_gone_and_one_of_no_size_have_no_map(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    writer = Writer(repository)
    writer.add("64k:A", "64k:B")
    writer.add("", full=True)
    data = _data(_page(command, writer.backups, tmp_path / "page.html"))
    assert [disk["picture"] for disk in data["disks"]] == [None, None]
    if browser.PROGRAM:
        seen = browser.look((tmp_path / "page.html").as_uri())
        assert seen.console == [] and "no data of this disk to draw" in seen.dom


@pytest.mark.parametrize(
    ("disks", "cells"), [(1, 4096), (4, 4096), (5, 1024), (16, 1024), (17, 256), (1000, 64)]
)
def test_many_disks_have_fewer_cells_each(disks: int, cells: int) -> None:
    assert cells_for(disks) == cells


def test_a_disk_of_a_tebibyte_with_millions_of_extents_makes_a_small_page() -> None:
    size, rows = 1 << 40, 2_000_000
    step = size // rows // 4096 * 4096
    start = np.arange(rows, dtype=np.int64) * step
    length = np.full(rows, step, np.int64)
    length[-1] = size - start[-1]
    layers = [Layer(ExtentMap(start, length, np.arange(rows) % 3 == 0), size)]
    backups = [backup_of([fake_stream()])]
    chance = np.random.default_rng(5)
    for _ in range(40):
        chosen = np.sort(chance.choice(rows, 20_000, replace=False))
        layers.insert(
            0, Layer(ExtentMap(start[chosen], np.full(20_000, 65536), chance.random(20_000) < 0.2), size)
        )
        backups.insert(0, backup_of([fake_stream(parent="x")], parent_id="y"))
    resolved = ResolvedChain(resolve(layers), tuple(_sources(backups)))
    disk = DiskDiff("id", "name", size, size, layers[0].extents, 0)
    began = time.monotonic()
    picture = draw(disk, resolved, cells_for(1))
    took = time.monotonic() - began
    page = render("t", _document(backups[-1], backups[0], [disk], {"id": picture}, backups[::-1]))
    assert len(page.encode()) < 500_000
    assert took < 5
    assert sum(link.data_bytes + link.zero_bytes for link in picture.links) == size
    assert int(picture.data.sum()) == resolved.map.extents().data_bytes
    assert picture.cells == Cells.of(size, 4096) and picture.cells.count == 4096


def _sources(backups: Sequence[Backup]) -> Iterator[LayerSource]:
    for backup in backups:
        yield LayerSource(backup, backup.streams[0], backup.streams[0])


def test_a_long_chain_names_only_what_is_still_read() -> None:
    size, count = 1 << 30, 1500
    whole = ExtentMap.of([(0, size, False)])
    layers = [Layer(ExtentMap.of([((n % 100) << 20, 1 << 20, False)]), size) for n in range(count)]
    backups = [backup_of([fake_stream(parent="x")], parent_id="y") for _ in range(count)]
    layers.append(Layer(whole, size))
    backups.append(backup_of([fake_stream()]))
    resolved = ResolvedChain(resolve(layers), tuple(_sources(backups)))
    picture = draw(DiskDiff("id", "name", size, size, ExtentMap.of([]), 0), resolved, 4096)
    assert len(picture.links) == 101 and picture.unread == count + 1 - 101
