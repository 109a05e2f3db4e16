# SPDX-License-Identifier: GPL-2.0-or-later
"""Describe a new stream before its first byte."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pitr.jobs.disk_settings import settings_of
from pitr.model import Kind
from pitr.repository.stream_sink import NewStream

if TYPE_CHECKING:
    # An import needs no engine.
    from pitr.ovirt.engine import Disk


def new_stream(
    backup_id: str,
    disk: Disk,
    reason: str | None,
    *,
    parent_stream_id: str | None = None,
    changes: str | None = None,
) -> NewStream:
    """Return the description of a new stream of `disk`, incremental with a parent.

    `reason` says why it is a full, or why it was compared.
    """
    return NewStream(
        stream_id=str(uuid.uuid4()),
        backup_id=backup_id,
        disk_id=disk.id,
        name=disk.name,
        kind=Kind.FULL if parent_stream_id is None else Kind.INCREMENTAL,
        reason=reason,
        parent_stream_id=parent_stream_id,
        settings=settings_of(disk),
        changes=changes,
    )
