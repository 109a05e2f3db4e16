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
    message     TEXT,             -- why the result is unreadable
    boot        TEXT,             -- passed, failed or unsure; NULL: the drill did not boot the point
    evidence    TEXT              -- guest-agent, console or screen
);
CREATE INDEX drill_by_backup ON drill (backup_id, time);

-- The last picture on the screen of a guest that a drill booted.
CREATE TABLE screen (
    drill     TEXT PRIMARY KEY REFERENCES drill (name),
    backup_id TEXT NOT NULL REFERENCES point (backup_id),
    vm_id     TEXT NOT NULL,
    time      TEXT NOT NULL,
    boot      TEXT NOT NULL,
    picture   BLOB NOT NULL       -- a PNG
);

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
WITH RECURSIVE up (stream_id, point, full_id, length, stored_bytes) AS (
    SELECT stream_id, point, stream_id, 1, blob_size FROM stream_row WHERE parent_stream_id IS NULL
    UNION ALL
    SELECT above.stream_id, above.point, up.full_id, up.length + 1, up.stored_bytes + above.blob_size
    FROM stream_row AS above JOIN up ON above.parent_stream_id = up.stream_id
)
SELECT
    iif(typeof(up.stream_id) = 'blob', lower(
        substr(hex(up.stream_id), 1, 8) || '-' || substr(hex(up.stream_id), 9, 4) || '-' || substr(hex(up.stream_id), 13, 4)
        || '-' || substr(hex(up.stream_id), 17, 4) || '-' || substr(hex(up.stream_id), 21)), up.stream_id),
    iif(typeof(point_row.backup_id) = 'blob', lower(
        substr(hex(point_row.backup_id), 1, 8) || '-' || substr(hex(point_row.backup_id), 9, 4) || '-' || substr(hex(point_row.backup_id), 13, 4)
        || '-' || substr(hex(point_row.backup_id), 17, 4) || '-' || substr(hex(point_row.backup_id), 21)), point_row.backup_id),
    iif(typeof(up.full_id) = 'blob', lower(
        substr(hex(up.full_id), 1, 8) || '-' || substr(hex(up.full_id), 9, 4) || '-' || substr(hex(up.full_id), 13, 4)
        || '-' || substr(hex(up.full_id), 17, 4) || '-' || substr(hex(up.full_id), 21)), up.full_id),
    up.length,
    up.stored_bytes
FROM up JOIN point_row ON point_row.number = up.point;
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
