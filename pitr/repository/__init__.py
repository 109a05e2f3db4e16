# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository: what is stored, how it is written and how it is read (docs/format.md)."""

from pitr.repository.repository import Repository

__all__ = ["Repository"]
