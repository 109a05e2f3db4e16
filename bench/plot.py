# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw the newest results of `bench/run` as docs/performance.svg (`make plot`; needs the `bench` extra).

It has three parts: ratios and goals, full backups by time and stored size, and the resolver by number of extents.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_PITR, _PEER, _GOAL = "#2b6cb0", "#718096", "#c05621"

Results = list[dict[str, Any]]


def newest(lines: Sequence[str]) -> Results:
    """Return the results of the newest run of each benchmark, in the order of their first runs."""
    found: dict[str, Results] = {}
    for line in lines:
        run: dict[str, Results] = {}
        for result in json.loads(line)["results"]:
            run.setdefault(result["benchmark"], []).append(result)
        found |= run
    return [result for results in found.values() for result in results]


def draw(results: Results, target: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    # Keep text as text, and make the file reproducible.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pitr", "font.size": 8})
    from matplotlib import pyplot as plt

    with_goals = [result for result in results if result["goal"] is not None]
    figure = plt.figure(figsize=(10, 4.2 + 0.2 * len(with_goals)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[0.2 * len(with_goals), 3.2])
    _goals(upper.subplots(), with_goals)
    left, right = lower.subplots(1, 2)
    _full_backups(left, results)
    _resolver(right, results)
    figure.savefig(target, metadata={"Date": None})


def _goals(axes: Any, results: Results) -> None:
    labels = [f"{result['name']}  |  {result['peer_name']}" for result in results]
    rows = range(len(results))
    axes.barh(rows, [result["ratio"] for result in results], color=_PITR, height=0.6)
    axes.plot([result["goal"] for result in results], rows, "|", color=_GOAL, markersize=9, markeredgewidth=2)
    for row, result in enumerate(results):
        text = f"{_number(result['pitr'])} / {_number(result['peer'])} {result['unit']}"
        place = (max(result["ratio"], result["goal"]), row)
        axes.annotate(text, place, (6, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(rows, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.01)
    axes.set_title("pitr / peer, and the goal of that ratio (less is better)", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _full_backups(axes: Any, results: Results) -> None:
    """Draw a dot for each program of the benchmark `peers`."""
    times: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for result in results:
        for prefix, values in (("full backup beside ", times), ("stored beside ", sizes)):
            if result["name"].startswith(prefix):
                values.setdefault("pitr", result["pitr"])
                values[result["peer_name"]] = result["peer"]
    for who, seconds in times.items():
        colour = _PITR if who == "pitr" else _PEER
        axes.plot(seconds, sizes[who], "o", color=colour)
        axes.annotate(who, (seconds, sizes[who]), (5, 5), textcoords="offset points", color=colour)
    axes.set(xlabel="seconds", ylabel="MB stored")
    axes.set_xlim(0, 1.2 * max(times.values(), default=1))
    axes.set_ylim(0, 1.2 * max(sizes.values(), default=1))
    axes.set_title("a full backup: time and stored size", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _resolver(axes: Any, results: Results) -> None:
    points: dict[str, list[tuple[float, float, float]]] = {}
    for result in results:
        found = re.fullmatch(r"resolver, ([\d.]+) M extents in (\d+) streams", result["name"])
        if found:
            points.setdefault(found[2], []).append((float(found[1]), result["pitr"], result["peer"]))
    for streams, marker in zip(points, ("o-", "s--"), strict=False):
        extents, resolved, read = zip(*sorted(points[streams]), strict=True)
        axes.loglog(extents, resolved, marker, color=_PITR, label=f"resolve {streams} streams")
        axes.loglog(extents, read, marker, color=_PEER, label=f"read the rows of {streams} streams")
    axes.set(xlabel="million extents", ylabel="seconds")
    axes.set_title("the resolver", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    kept = HERE / "results" / "full.jsonl"
    if not kept.exists():
        sys.exit(f"{kept} does not exist: run bench/run first")
    target = HERE.parent / "docs" / "performance.svg"
    draw(newest(kept.read_text().splitlines()), target)
    print(target)


if __name__ == "__main__":
    main()
