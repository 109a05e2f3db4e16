# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulated oVirt engine for the unmodified SDK and ovirt-img."""

from pitr.lab.engine.clock import Clock
from pitr.lab.engine.simulator import Simulator

__all__ = ["Clock", "Simulator"]
