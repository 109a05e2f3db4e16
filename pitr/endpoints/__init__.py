# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources and sinks: everything that a disk can be copied from or to."""
