# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python API (docs/api.md): `copy(source, sink)`, and opening everything that can be either."""

from pitr.api.sinks import open_sink
from pitr.api.sources import open_source
from pitr.endpoint.protocols import Sink, Source
from pitr.endpoint.streamed import StreamedSource
from pitr.repository import Repository
from pitr.transfer.copy import Copied
from pitr.transfer.dispatch import copy_any as copy

__all__ = ["Copied", "Repository", "Sink", "Source", "StreamedSource", "copy", "open_sink", "open_source"]
