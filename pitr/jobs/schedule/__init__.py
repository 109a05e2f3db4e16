# SPDX-License-Identifier: GPL-2.0-or-later
"""Run pitr at fixed times: units of systemd, or a line of a crontab."""
