# SPDX-License-Identifier: GPL-2.0-or-later
"""Backing up: one VM, several VMs, into the repository or into a pipe."""
