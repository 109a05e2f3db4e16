# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of pitr."""

__version__ = "0.1.0"
