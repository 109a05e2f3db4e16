# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python API (docs/api.md): `copy(source, sink)`, and functions that open sources and sinks."""

from pitr.api.sinks import open_sink
from pitr.api.sources import open_source
from pitr.copier.any import copy_any as copy
from pitr.copier.copy import Copied
from pitr.copier.protocols import Sink, Source
from pitr.copier.streamed import StreamedSource
from pitr.repository import Repository

__all__ = ["Copied", "Repository", "Sink", "Source", "StreamedSource", "copy", "open_sink", "open_source"]
