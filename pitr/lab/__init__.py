# SPDX-License-Identifier: GPL-2.0-or-later
"""A local oVirt for tests and `pitr demo`: a simulated engine, a real imageio daemon, real qemu."""

from pitr.lab.lab import Lab, LabDisk, LabVM

__all__ = ["Lab", "LabDisk", "LabVM"]
