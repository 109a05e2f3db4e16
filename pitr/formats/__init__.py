# SPDX-License-Identifier: GPL-2.0-or-later
"""Stream formats of other programs, and oVirt's own: oVirt sparse streams, rbd diffs, virtnbdbackup."""
