# SPDX-License-Identifier: GPL-2.0-or-later
"""Show what changed between two points, and how a VM's points grew."""
