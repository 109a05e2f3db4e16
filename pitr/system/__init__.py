# SPDX-License-Identifier: GPL-2.0-or-later
"""The operating system: processes, signals, sockets, memory, retries. It imports no code about backups."""
