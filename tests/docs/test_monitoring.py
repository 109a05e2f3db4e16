# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/monitoring.md names the metrics that exist, and its alert rules are YAML with known metrics."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pitr.jobs.status import openmetrics

_TEXT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
_METRICS = {"pitr_up", "pitr_status_timestamp_seconds", *openmetrics.METRICS}


def _named(text: str) -> set[str]:
    return set(re.findall(r"\bpitr_(?:up|status|vm)\w*", text)) - {"pitr_vms"}


def test_the_page_names_all_metrics_and_no_others() -> None:
    table = _TEXT.split("| metric | value |")[1].split("\n\n")[0]
    assert _named(table) == _METRICS
    assert _named(_TEXT) <= _METRICS


def test_the_alert_rules_are_rules() -> None:
    shown = re.search(r"```yaml\n(.*?)```", _TEXT, re.DOTALL)
    assert shown is not None
    (group,) = yaml.safe_load(shown[1])["groups"]
    assert len(group["rules"]) == 6
    for rule in group["rules"]:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        assert _named(rule["expr"]) and _named(rule["expr"]) <= _METRICS
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("critical", "warning")
