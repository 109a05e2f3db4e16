# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog: a SQLite cache of all records (schema/catalog.sql)."""

from pitr.repository.catalog.catalog import Catalog, Known

__all__ = ["Catalog", "Known"]
