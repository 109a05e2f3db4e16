# SPDX-License-Identifier: GPL-2.0-or-later
"""How a job says something while it works."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with one line that a person should see while the work goes on."""


Progress = Callable[[int, int], None]
