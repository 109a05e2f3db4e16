# SPDX-License-Identifier: GPL-2.0-or-later
"""List, read, copy and compare single files of a guest."""
