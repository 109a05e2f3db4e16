# SPDX-License-Identifier: GPL-2.0-or-later
"""One `copy` for both kinds of sources: random access and streams."""

from __future__ import annotations

from typing import cast

from pitr.copier.copy import DEFAULT_WORKERS, Copied, copy
from pitr.copier.pour import pour
from pitr.copier.protocols import Sink, Source
from pitr.copier.streamed import StreamedSource
from pitr.reporting import Progress


def copy_any(
    source: Source | StreamedSource,
    sink: Sink,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Copied:
    """Copy `source` to `sink`, and flush the sink. The caller closes both, and aborts the sink after an error."""
    # Not isinstance: it would read the size, for which some sources ask a server.
    if hasattr(source, "passing"):
        return pour(cast(StreamedSource, source), sink, workers=workers, progress=progress)
    return copy(source, sink, workers=workers, progress=progress)
