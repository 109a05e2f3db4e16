# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest wrote on its disks: partitions, LVM, file systems. Never trusted."""
