# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping a repository in order: retention, removal, what crashes left, records made again."""
