# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw the newest results of `bench/run` as docs/performance.svg: pitr beside its peers, shorter is better."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_WIDTH, _LEFT, _BAR, _GAP = 860, 380, 14, 16
_COLOURS = ("#2b6cb0", "#a0aec0")


def newest(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The newest result of each name and peer, in the order of their first run."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        for result in json.loads(line)["results"]:
            found[result["name"], result["peer_name"]] = result
    return list(found.values())


def drawn(results: Sequence[Mapping[str, Any]]) -> str:
    """An SVG with two bars for each result; each pair has a scale of its own, for their units differ."""
    rows: list[str] = []
    y = _GAP
    for result in results:
        longest = max(result["pitr"], result["peer"]) or 1
        rows.append(
            f'<text x="{_LEFT - 10}" y="{y + _BAR + 4}" text-anchor="end">{escape(result["name"])}</text>'
        )
        for number, (who, value) in enumerate(
            (("pitr", result["pitr"]), (result["peer_name"], result["peer"]))
        ):
            width = max(1, round(value / longest * (_WIDTH - _LEFT - 260)))
            at = y + number * (_BAR + 2)
            rows.append(
                f'<rect x="{_LEFT}" y="{at}" width="{width}" height="{_BAR}" fill="{_COLOURS[number]}"/>'
            )
            label = escape(f"{who}: {value:.3g} {result['unit']}")
            rows.append(f'<text x="{_LEFT + width + 6}" y="{at + _BAR - 3}">{label}</text>')
        y += 2 * _BAR + _GAP
    size = f'width="{_WIDTH}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *rows, "</svg>"]) + "\n"


def main() -> None:
    kept = HERE / "results" / "full.jsonl"
    if not kept.exists():
        sys.exit(f"there is no {kept}: run bench/run first")
    target = HERE.parent / "docs" / "performance.svg"
    target.write_text(drawn(newest(kept.read_text().splitlines())))
    print(target)


if __name__ == "__main__":
    main()
