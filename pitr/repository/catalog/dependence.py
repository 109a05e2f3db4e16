# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries for the backups that depend on a stream or a backup."""

#: The backups based on this one, and itself.
DESCENDANTS = """
WITH RECURSIVE above (backup_id) AS (
    VALUES (?)
    UNION
    SELECT point.backup_id FROM point JOIN above ON point.parent_id = above.backup_id
    UNION
    SELECT based.backup_id FROM above
    JOIN point AS stand_in ON stand_in.backup_id = above.backup_id AND stand_in.stands_for IS NOT NULL
    JOIN point AS based ON based.parent_id = stand_in.stands_for
)
SELECT above.backup_id FROM above LEFT JOIN point USING (backup_id)
ORDER BY point.point, above.backup_id
"""
#: The streams that are this one, are based on it, or use its frames. Where a synthetic backup stands for one, the
#: streams that are based on that one are based on its streams.
_ABOVE = """
WITH RECURSIVE use (stream_id, user_id) AS (
    SELECT json_extract(part.value, '$[1]'), stream.stream_id FROM stream, json_each(stream.parts) AS part
    WHERE stream.parts IS NOT NULL
),
above (stream_id) AS (
    VALUES (?)
    UNION
    SELECT stream.stream_id FROM stream JOIN above ON stream.parent_stream_id = above.stream_id
    UNION
    SELECT use.user_id FROM use JOIN above ON use.stream_id = above.stream_id
    UNION
    SELECT child.stream_id FROM above
    JOIN stream AS synthetic ON synthetic.stream_id = above.stream_id
    JOIN point AS stand_in ON stand_in.backup_id = synthetic.backup_id AND stand_in.stands_for IS NOT NULL
    JOIN point AS based ON based.parent_id = stand_in.stands_for
    JOIN stream AS child ON child.backup_id = based.backup_id AND child.disk_id = synthetic.disk_id
    WHERE child.parent_stream_id IS NOT NULL
)
"""
#: The backups with such a stream.
DEPENDANTS = (
    _ABOVE
    + """
SELECT DISTINCT backup_id FROM above JOIN stream USING (stream_id) JOIN point USING (backup_id)
ORDER BY point.point, backup_id
"""
)
#: The disks of such streams, with their backups and VMs.
DEPENDENT_DISKS = (
    _ABOVE
    + """
SELECT DISTINCT stream.disk_id, backup_id, point.vm_id FROM above
JOIN stream USING (stream_id) JOIN point USING (backup_id)
ORDER BY stream.disk_id
"""
)
#: Of the streams with these ids (a JSON list), those that other VMs than this one have or use.
OF_OTHER_VMS = """
WITH wanted (stream_id) AS (SELECT value FROM json_each(?))
SELECT stream_id FROM wanted JOIN stream USING (stream_id) JOIN point USING (backup_id) WHERE vm_id != ?
UNION
SELECT wanted.stream_id FROM stream JOIN point USING (backup_id), json_each(stream.parts) AS part
JOIN wanted ON wanted.stream_id = json_extract(part.value, '$[1]')
WHERE stream.parts IS NOT NULL AND vm_id != ?
"""
#: The streams whose frames other streams use.
USED_AS_PARTS = """
SELECT DISTINCT json_extract(part.value, '$[1]') FROM stream, json_each(stream.parts) AS part
WHERE stream.parts IS NOT NULL AND json_extract(part.value, '$[1]') != stream.stream_id
"""
