# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository: its stored objects, and how pitr writes and reads them (docs/format.md)."""

from pitr.repository.repository import Repository

__all__ = ["Repository"]
