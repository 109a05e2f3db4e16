# SPDX-License-Identifier: GPL-2.0-or-later
"""The link from an incremental stream to the stream that it is based on."""

from __future__ import annotations

from collections.abc import Callable, Container

from pitr.model import Backup, Stream
from pitr.repository.damage import StoredDamage, of_stream


def parent_of(
    backup: Backup, stream: Stream, record_above: Callable[[str], Backup], below: Container[str]
) -> tuple[Backup, Stream]:
    """Return the parent of an incremental stream, with its backup. Raises StoredDamage about the stream.

    `record_above` reads the record of a backup, or of the synthetic one that stands for it; it raises StoredDamage.
    `below` has the ids of the streams that lead here, which the parent must not be.
    """
    if backup.parent_id is None:
        raise of_stream(backup.backup_id, stream, "inconsistent", "parent", "its backup has no parent")
    try:
        above = record_above(backup.parent_id)
    except StoredDamage as error:
        raise of_stream(
            backup.backup_id,
            stream,
            error.damage.kind,
            "parent",
            f"its parent, stream {stream.parent_stream_id} of backup {backup.parent_id}, is damaged: "
            f"{error.damage.message}",
        ) from None
    parent = above.stream_of(stream.disk_id)
    stands_in = above.stands_for == backup.parent_id
    is_parent = parent is not None and (parent.stream_id == stream.parent_stream_id or stands_in)
    if parent is None or not is_parent or parent.stream_id in below:
        raise of_stream(
            backup.backup_id,
            stream,
            "inconsistent",
            "parent",
            f"its parent, stream {stream.parent_stream_id}, is not in backup {backup.parent_id}",
        )
    return above, parent
