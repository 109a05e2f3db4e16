# SPDX-License-Identifier: GPL-2.0-or-later
"""Import: streams and files of other programs become points."""
