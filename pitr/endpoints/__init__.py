# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources and sinks: everything that pitr copies a disk from or to."""
