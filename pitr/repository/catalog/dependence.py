# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries for the backups that depend on a stream or a backup."""

from pitr.repository.catalog.places import text_of

#: The backups based on this one, and itself. Values: its stored id, its id as text.
DESCENDANTS = f"""
WITH RECURSIVE above (backup_id, number) AS (
    SELECT ?1, (SELECT number FROM point_row WHERE {text_of("backup_id")} = ?2)
    UNION
    SELECT based.backup_id, based.number FROM above JOIN point_row AS based ON based.parent_id = above.backup_id
    UNION
    SELECT based.backup_id, based.number FROM above
    JOIN point_row AS stand_in ON stand_in.number = above.number AND stand_in.stands_for IS NOT NULL
    JOIN point_row AS based ON based.parent_id = stand_in.stands_for
)
SELECT above.backup_id FROM above LEFT JOIN point_row ON point_row.number = above.number
ORDER BY point_row.point, above.backup_id
"""  # noqa: S608
#: The streams that are this one, are based on it, or use its frames. Where a synthetic backup stands for one, the
#: streams that are based on that one are based on its streams. Values: the stored id of the stream, its id as text.
_ABOVE = f"""
WITH RECURSIVE above (stream_id, point, position) AS (
    SELECT ?1, own.point, own.position
    FROM (SELECT 1) LEFT JOIN stream_row AS own ON {text_of("own.stream_id")} = ?2
    UNION
    SELECT child.stream_id, child.point, child.position FROM above
    JOIN stream_row AS child ON child.parent_stream_id = above.stream_id
    UNION
    SELECT user.stream_id, user.point, user.position FROM above
    JOIN part_row AS part ON part.stream_id = above.stream_id
    JOIN stream_row AS user ON user.point = part.point AND user.position = part.position
    UNION
    SELECT child.stream_id, child.point, child.position FROM above
    JOIN point_row AS stand_in ON stand_in.number = above.point AND stand_in.stands_for IS NOT NULL
    JOIN point_row AS based ON based.parent_id = stand_in.stands_for
    JOIN stream_row AS synthetic ON synthetic.point = above.point AND synthetic.position = above.position
    JOIN stream_row AS child ON child.point = based.number AND child.disk = synthetic.disk
    WHERE child.parent_stream_id IS NOT NULL
)
"""  # noqa: S608
#: The backups with such a stream.
DEPENDANTS = f"""
{_ABOVE}
SELECT DISTINCT point_row.backup_id FROM above JOIN point_row ON point_row.number = above.point
ORDER BY point_row.point, point_row.backup_id
"""  # noqa: S608
#: The disks of such streams, with their backups and VMs.
DEPENDENT_DISKS = f"""
{_ABOVE}
SELECT DISTINCT disk_row.id, point_row.backup_id, vm_row.id FROM above
JOIN stream_row ON stream_row.point = above.point AND stream_row.position = above.position
JOIN point_row ON point_row.number = above.point
JOIN vm_row ON vm_row.number = point_row.vm
JOIN disk_row ON disk_row.number = stream_row.disk
ORDER BY disk_row.id
"""  # noqa: S608
#: Of the streams with these ids (a JSON list), those that other VMs than this one (its id) have.
OF_OTHER_VMS = f"""
SELECT wanted.value FROM json_each(?) AS wanted
JOIN stream_row ON {text_of("stream_row.stream_id")} = wanted.value
JOIN point_row ON point_row.number = stream_row.point
WHERE point_row.vm IS NOT (SELECT number FROM vm_row WHERE id = ?)
"""  # noqa: S608
#: The streams of these whose frames other streams use; and those whose frames other VMs than this one use.
USERS = "SELECT DISTINCT stream_id FROM part_row WHERE stream_id IN ({marks})"
OTHER_USERS = """
SELECT DISTINCT part_row.stream_id FROM part_row JOIN point_row ON point_row.number = part_row.point
WHERE part_row.stream_id IN ({marks}) AND point_row.vm IS NOT (SELECT number FROM vm_row WHERE id = ?)
"""
#: The backup with the latest `point` of this one and those that it is based on. Value: its id as text.
LATEST_IN_CHAIN = f"""
WITH RECURSIVE below (backup_id, parent_id, point) AS (
    SELECT backup_id, parent_id, point FROM point_row WHERE {text_of("backup_id")} = ?
    UNION
    SELECT p.backup_id, p.parent_id, p.point FROM below
    JOIN point_row AS p ON {text_of("p.backup_id")} = {text_of("below.parent_id")}
)
SELECT backup_id FROM below ORDER BY point DESC LIMIT 1
"""  # noqa: S608
