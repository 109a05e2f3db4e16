# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of one check of `pitr doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CheckStatus = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, with advice on how to fix a failure ("" if there is nothing to fix).

    `measured`: figures by name, if the check measured some.
    """

    name: str
    status: CheckStatus
    message: str
    advice: str = ""
    measured: Mapping[str, float] | None = None

    def as_document(self) -> dict[str, Any]:
        """Return the check for JSON."""
        document: dict[str, Any] = {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "advice": self.advice,
        }
        return document if self.measured is None else document | {"measured": dict(self.measured)}
