# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell for each VM whether its points are fresh, whole and proven, for people and for monitoring programs."""
