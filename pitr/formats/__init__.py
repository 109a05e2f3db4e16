# SPDX-License-Identifier: GPL-2.0-or-later
"""Stream formats: oVirt sparse streams, Ceph's rbd diffs and virtnbdbackup's streams."""
