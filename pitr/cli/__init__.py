# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: parses, calls, prints; no logic."""
