# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams on pipes and in files: detect, read and write them."""
