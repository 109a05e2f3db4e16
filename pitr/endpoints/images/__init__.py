# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: raw and qcow2 files, NBD exports, memory."""
