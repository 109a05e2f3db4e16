-- The additions of `pitr catalog serve` to its copy of the catalog: drills, damage, chains and a summary of each VM.
-- Times are UTC with microseconds, sizes are bytes.
CREATE TABLE drill (
    name        TEXT PRIMARY KEY, -- the name of its object in the repository
    backup_id   TEXT NOT NULL REFERENCES point (backup_id),
    vm_id       TEXT NOT NULL,
    time        TEXT NOT NULL,    -- the end of the drill
    ok          INTEGER,          -- NULL: the result is unreadable
    image       INTEGER,          -- 1: restored to images; 0: only read
    duration_ms INTEGER,
    message     TEXT              -- why the result is unreadable
);
CREATE INDEX drill_by_backup ON drill (backup_id, time);

CREATE TABLE finding (
    drill     TEXT NOT NULL REFERENCES drill (name),
    disk_id   TEXT NOT NULL,
    disk_name TEXT NOT NULL,
    what      TEXT NOT NULL,
    ok        INTEGER,            -- NULL: the check cannot decide
    message   TEXT NOT NULL
);
CREATE INDEX finding_by_drill ON finding (drill);

-- The points that known damage loses, one row for each finding and point.
CREATE TABLE damage (
    backup_id TEXT NOT NULL REFERENCES point (backup_id),
    vm_id     TEXT NOT NULL,
    disk_id   TEXT,               -- NULL: all disks of the point
    message   TEXT NOT NULL,
    finding   TEXT NOT NULL       -- the name of its object in the repository
);
CREATE INDEX damage_by_backup ON damage (backup_id);

-- A stream that is missing here is based on a lost stream.
CREATE TABLE chain (
    stream_id    TEXT PRIMARY KEY REFERENCES stream (stream_id),
    backup_id    TEXT NOT NULL REFERENCES point (backup_id),
    full_id      TEXT NOT NULL REFERENCES stream (stream_id),
    length       INTEGER NOT NULL, -- streams from the full to this one
    stored_bytes INTEGER NOT NULL  -- of all these streams
) WITHOUT ROWID;
INSERT INTO chain
WITH RECURSIVE up (stream_id, backup_id, full_id, length, stored_bytes) AS (
    SELECT stream_id, backup_id, stream_id, 1, blob_size FROM stream WHERE parent_stream_id IS NULL
    UNION ALL
    SELECT stream.stream_id, stream.backup_id, up.full_id, up.length + 1, up.stored_bytes + stream.blob_size
    FROM stream JOIN up ON stream.parent_stream_id = up.stream_id
)
SELECT * FROM up;
CREATE INDEX chain_by_backup ON chain (backup_id);

CREATE VIEW vm AS
SELECT
    vm_id,
    (SELECT vm_name FROM point AS last WHERE last.vm_id = point.vm_id ORDER BY point DESC LIMIT 1) AS vm_name,
    count(*) AS points,
    min(point) AS first_point,
    max(point) AS newest_point,
    round(julianday('now') - julianday(max(point)), 2) AS age_days,
    (SELECT count(DISTINCT backup_id) FROM damage WHERE damage.vm_id = point.vm_id) AS damaged_points,
    sum(stored_bytes) AS stored_bytes
FROM point GROUP BY vm_id;
