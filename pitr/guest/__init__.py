# SPDX-License-Identifier: GPL-2.0-or-later
"""The data that a guest wrote on its disks: partitions, LVM, file systems. pitr never trusts it."""
