# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore to new disks, a new VM, the disks of a VM, or image files."""
