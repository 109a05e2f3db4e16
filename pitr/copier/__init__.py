# SPDX-License-Identifier: GPL-2.0-or-later
"""The copier: it copies a disk from any source to any sink, in parallel."""

from pitr.copier.copy import Copied, Copying, copy, copy_all

__all__ = ["Copied", "Copying", "copy", "copy_all"]
