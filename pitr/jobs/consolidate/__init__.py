# SPDX-License-Identifier: GPL-2.0-or-later
"""Replace points that are based on others by points that need no chain."""
