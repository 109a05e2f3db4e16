# SPDX-License-Identifier: GPL-2.0-or-later
"""The types of the callbacks through which a job reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with one line for the user while the job runs."""

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total bytes known so far, from any thread, one call at a time."""
