# SPDX-License-Identifier: GPL-2.0-or-later
"""Point-in-time restore for oVirt VM disks."""

__version__ = "0.1.0"
