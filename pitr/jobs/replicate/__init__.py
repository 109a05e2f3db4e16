# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy what another repository lacks, point by point."""
