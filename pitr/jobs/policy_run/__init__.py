# SPDX-License-Identifier: GPL-2.0-or-later
"""Carry out a policy of the configuration: back up, remove, verify and drill its VMs, and tell how it went."""
