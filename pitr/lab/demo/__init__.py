# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo`: the whole story on a local oVirt, told with the real commands."""

from pitr.lab.demo.report import Proof, Report, Step
from pitr.lab.demo.story import run

__all__ = ["Proof", "Report", "Step", "run"]
