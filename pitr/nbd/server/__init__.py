# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD server for read-only exports, after the NBD project's doc/proto.md. It does not trust its clients."""

from pitr.nbd.server.exports import Export, ExportContent, Exports
from pitr.nbd.server.server import NbdServer

__all__ = ["ExportContent", "Export", "Exports", "NbdServer"]
