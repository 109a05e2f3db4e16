# SPDX-License-Identifier: GPL-2.0-or-later
"""All streams of some backups and of those that they are based on. Each link to a parent is followed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.parents import parent_of

Link = tuple[Backup, Stream]


def linked_streams(
    repository: Repository, backups: Sequence[Backup], report: Callable[[StoredDamage, Backup], None]
) -> tuple[dict[str, Link], set[str]]:
    """Return the streams with their backups by id, and the ids of the streams whose chains are whole.

    `report` gets the damage of a link from one of the backups. Raises ObjectStoreError.
    """
    read = {backup.backup_id: backup for backup in backups}
    streams: dict[str, Link] = {}
    whole: dict[str, bool] = {}

    def record_above(backup_id: str) -> Backup:
        return read.get(backup_id) or repository.record_above(backup_id)

    for backup in backups:
        for stream in backup.streams:
            path: dict[str, Link] = {}
            link, good = (backup, stream), True
            while True:
                stream_id = link[1].stream_id
                streams.setdefault(stream_id, link)
                if stream_id in whole:
                    good = whole[stream_id]
                    break
                path[stream_id] = link
                if link[1].parent_stream_id is None:
                    break
                try:
                    link = parent_of(*link, record_above, path)
                except StoredDamage as error:
                    good = False
                    if link[0].backup_id in read:
                        report(error, link[0])
                    break
            whole |= dict.fromkeys(path, good)
    return streams, {stream_id for stream_id, good in whole.items() if good}
