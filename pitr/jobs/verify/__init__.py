# SPDX-License-Identifier: GPL-2.0-or-later
"""Proving: stored data against digests, points against the engine's disks, and restore drills."""
