# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo`: back up, lose and restore a VM on a local oVirt, with the real commands."""

from pitr.lab.demo.report import Proof, Report, Step
from pitr.lab.demo.story import run

__all__ = ["Proof", "Report", "Step", "run"]
