# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the disks of a VM back to a point: only what differs from now is written."""
