# SPDX-License-Identifier: GPL-2.0-or-later
"""Single files of a guest: listing, reading, copying, comparing."""
