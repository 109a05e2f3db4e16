# SPDX-License-Identifier: GPL-2.0-or-later
"""Maintain a repository: retention, removal, leftovers of crashed runs, and lost records."""
