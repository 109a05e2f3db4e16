# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify stored data against its digests and points against the engine's disks, and run restore drills."""
