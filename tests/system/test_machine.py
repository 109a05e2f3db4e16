# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that this process may use: the smallest limit of its control group and its parents."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.system import machine

MIB = 1 << 20


def _limits(root: Path, name: str, limits: dict[str, str]) -> None:
    for path, text in limits.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "name", "limits", "most"),
    [
        ("0::/a/b", "memory.max", {"a/b": "max", "a": str(64 * MIB)}, 64 * MIB),
        ("0::/a/b", "memory.max", {"a/b": str(5 * MIB), "a": str(64 * MIB)}, 5 * MIB),
        ("0::/", "memory.max", {"": str(7 * MIB)}, 7 * MIB),
        ("0::/../x", "memory.max", {"": str(7 * MIB)}, 7 * MIB),
        ("4:cpu,memory:/a", "memory.limit_in_bytes", {"memory/a": str(9 * MIB)}, 9 * MIB),
        ("4:memory:/elsewhere", "memory.limit_in_bytes", {"memory": str(9 * MIB)}, 9 * MIB),
        ("4:memory:/a:b", "memory.limit_in_bytes", {"memory/a:b": str(9 * MIB)}, 9 * MIB),
        ("3:cpu:/a", "memory.max", {"a": "1"}, None),
        ("0::/a", "memory.max", {"a": "strange"}, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    name: str,
    limits: dict[str, str],
    most: int | None,
) -> None:
    (tmp_path / "own").write_text("9:name=systemd:/x\n" + own + "\n")
    _limits(tmp_path / "cgroup", name, limits)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert machine.memory_bytes() == (total if most is None else most)


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "none")
    assert machine.memory_bytes() > 64 * MIB
