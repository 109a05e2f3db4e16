-- The catalog: a cache of all records, for queries (docs/format.md). `pitr catalog rebuild` rebuilds it from the
-- records. Query the views point, stream and left_out: they have a row for each record, disk and disk left out, and show
-- all values as text and numbers. Their tables are compact, because there can be millions of points:
--   an id that is a UUID is its 16 bytes, any other id is text; a digest (BLAKE3) is its 32 bytes;
--   a time is the number of microseconds since 0001-01-01 UTC; a kind is 0 (full), 1 (incremental) or 2 (synthetic);
--   a sealed name is NULL, and the views show the id in its place.
-- Times of the views are UTC with microseconds, sizes are bytes, digests are hex.
PRAGMA application_id = 0x70697463; -- "pitc"
PRAGMA user_version = 9;

CREATE TABLE vm_row (
    number INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE,
    name   TEXT                          -- at its newest point
);

-- All names that a VM has had.
CREATE TABLE name_row (
    name TEXT NOT NULL,
    vm   INTEGER NOT NULL REFERENCES vm_row (number),
    PRIMARY KEY (name, vm)
) WITHOUT ROWID;

CREATE TABLE disk_row (
    number INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE
);

CREATE TABLE point_row (
    number             INTEGER PRIMARY KEY, -- the VM's number << 32, plus a count: the points of a VM are together
    vm                 INTEGER NOT NULL REFERENCES vm_row (number),
    backup_id          BLOB NOT NULL,
    vm_name            TEXT,
    kind               INTEGER NOT NULL,
    reason             TEXT,             -- why it is a full
    point              INTEGER NOT NULL, -- the latest possible moment of the disks' state
    lo                 INTEGER NOT NULL, -- the earliest possible moment of the disks' state
    parent_id          BLOB,             -- the backup that the incremental streams are based on
    checkpoint_id      BLOB,
    from_checkpoint_id BLOB,
    mode               TEXT NOT NULL,
    consistency        TEXT NOT NULL,
    stored_bytes       INTEGER NOT NULL,
    data_bytes         INTEGER NOT NULL, -- of all its streams
    zero_bytes         INTEGER NOT NULL, -- of all its streams
    -- Of its streams without those that are full in an incremental point, to compare points with each other:
    changed_data       INTEGER NOT NULL, -- bytes in data extents
    changed_zero       INTEGER NOT NULL, -- bytes in zero extents
    changed_stored     INTEGER NOT NULL, -- bytes of the blobs
    changed_size       INTEGER NOT NULL, -- bytes of the disks
    duration_ms        INTEGER NOT NULL,
    pitr_version       TEXT NOT NULL,
    stands_for         BLOB,             -- the backup that a synthetic one stands for
    configuration_size   INTEGER,        -- of the object with the VM's OVF
    configuration_digest BLOB,
    record_size        INTEGER NOT NULL,
    record_digest      BLOB NOT NULL     -- of the record's bytes, to notice a changed or lost record
);

CREATE TABLE stream_row (
    point             INTEGER NOT NULL REFERENCES point_row (number),
    position          INTEGER NOT NULL,  -- the order of the streams in the backup
    stream_id         BLOB NOT NULL,
    disk              INTEGER NOT NULL REFERENCES disk_row (number),
    name              TEXT,              -- of the disk
    kind              INTEGER NOT NULL,
    reason            TEXT,
    size              INTEGER NOT NULL,  -- of the disk
    parent_stream_id  BLOB,              -- the stream that an incremental is based on
    frame_size        INTEGER NOT NULL,
    data_bytes        INTEGER NOT NULL,
    zero_bytes        INTEGER NOT NULL,
    extents           INTEGER NOT NULL,  -- rows of the index
    blob_size         INTEGER,           -- NULL for a stream without a blob of its own
    blob_digest       BLOB,
    index_size        INTEGER NOT NULL,
    index_digest      BLOB NOT NULL,
    index_copy_size   INTEGER,           -- NULL for an index that is stored once
    index_copy_digest BLOB,
    changes           TEXT,              -- how changes were found: "tracked" or "compared"
    parts             TEXT,              -- the streams whose blobs hold its frames, as JSON; NULL for only its own
    format            TEXT NOT NULL,     -- of the disk on the engine
    sparse            INTEGER NOT NULL,
    interface         TEXT,
    bootable          INTEGER NOT NULL,
    active            INTEGER NOT NULL,
    backup_enabled    INTEGER NOT NULL,
    storage_domain_id BLOB,
    settings          TEXT,              -- the disk's other settings that are not the engine's defaults, as JSON
    note              TEXT,              -- limits of the source of an imported stream
    external          TEXT,              -- compression of a blob stored externally: "zstd" or "none"
    PRIMARY KEY (point, position)
) WITHOUT ROWID;

-- The streams that use frames of other streams, by the stream whose blob holds them.
CREATE TABLE part_row (
    stream_id BLOB NOT NULL,
    disk_id   TEXT NOT NULL,             -- of that stream
    point     INTEGER NOT NULL,          -- the stream that uses it
    position  INTEGER NOT NULL,
    PRIMARY KEY (stream_id, point, position)
) WITHOUT ROWID;

-- Disks of the VM that a backup does not include.
CREATE TABLE left_out_row (
    point  INTEGER NOT NULL REFERENCES point_row (number),
    disk   INTEGER NOT NULL REFERENCES disk_row (number),
    name   TEXT,
    reason TEXT NOT NULL,
    cause  TEXT NOT NULL,                -- "chosen", "unable" or "missing"
    PRIMARY KEY (point, disk)
) WITHOUT ROWID;

-- The values as text.
CREATE VIEW point AS SELECT
    iif(typeof(point_row.backup_id) = 'blob', lower(
        substr(hex(point_row.backup_id), 1, 8) || '-' || substr(hex(point_row.backup_id), 9, 4) || '-' || substr(hex(point_row.backup_id), 13, 4)
        || '-' || substr(hex(point_row.backup_id), 17, 4) || '-' || substr(hex(point_row.backup_id), 21)), point_row.backup_id) AS backup_id,
    vm_row.id AS vm_id,
    coalesce(point_row.vm_name, vm_row.id) AS vm_name,
    CASE point_row.kind WHEN 0 THEN 'full' WHEN 1 THEN 'incremental' WHEN 2 THEN 'synthetic' END AS kind,
    point_row.reason AS reason,
    strftime('%Y-%m-%dT%H:%M:%S', point_row.point / 1000000 - 62135596800, 'unixepoch')
        || printf('.%06dZ', point_row.point % 1000000) AS point,
    strftime('%Y-%m-%dT%H:%M:%S', point_row.lo / 1000000 - 62135596800, 'unixepoch')
        || printf('.%06dZ', point_row.lo % 1000000) AS lo,
    iif(typeof(point_row.parent_id) = 'blob', lower(
        substr(hex(point_row.parent_id), 1, 8) || '-' || substr(hex(point_row.parent_id), 9, 4) || '-' || substr(hex(point_row.parent_id), 13, 4)
        || '-' || substr(hex(point_row.parent_id), 17, 4) || '-' || substr(hex(point_row.parent_id), 21)), point_row.parent_id) AS parent_id,
    iif(typeof(point_row.checkpoint_id) = 'blob', lower(
        substr(hex(point_row.checkpoint_id), 1, 8) || '-' || substr(hex(point_row.checkpoint_id), 9, 4) || '-' || substr(hex(point_row.checkpoint_id), 13, 4)
        || '-' || substr(hex(point_row.checkpoint_id), 17, 4) || '-' || substr(hex(point_row.checkpoint_id), 21)), point_row.checkpoint_id) AS checkpoint_id,
    iif(typeof(point_row.from_checkpoint_id) = 'blob', lower(
        substr(hex(point_row.from_checkpoint_id), 1, 8) || '-' || substr(hex(point_row.from_checkpoint_id), 9, 4) || '-' || substr(hex(point_row.from_checkpoint_id), 13, 4)
        || '-' || substr(hex(point_row.from_checkpoint_id), 17, 4) || '-' || substr(hex(point_row.from_checkpoint_id), 21)), point_row.from_checkpoint_id) AS from_checkpoint_id,
    point_row.mode AS mode,
    point_row.consistency AS consistency,
    point_row.stored_bytes AS stored_bytes,
    point_row.data_bytes AS data_bytes,
    point_row.zero_bytes AS zero_bytes,
    point_row.changed_data AS changed_data,
    point_row.changed_zero AS changed_zero,
    point_row.changed_stored AS changed_stored,
    point_row.changed_size AS changed_size,
    point_row.duration_ms AS duration_ms,
    point_row.pitr_version AS pitr_version,
    iif(typeof(point_row.stands_for) = 'blob', lower(
        substr(hex(point_row.stands_for), 1, 8) || '-' || substr(hex(point_row.stands_for), 9, 4) || '-' || substr(hex(point_row.stands_for), 13, 4)
        || '-' || substr(hex(point_row.stands_for), 17, 4) || '-' || substr(hex(point_row.stands_for), 21)), point_row.stands_for) AS stands_for,
    point_row.configuration_size AS configuration_size,
    iif(typeof(point_row.configuration_digest) = 'blob', lower(hex(point_row.configuration_digest)), point_row.configuration_digest) AS configuration_digest,
    'backups/' || vm_row.id || '/'
        || strftime('%Y%m%dT%H%M%S', point_row.point / 1000000 - 62135596800, 'unixepoch')
        || printf('.%06dZ-', point_row.point % 1000000)
        || iif(typeof(point_row.backup_id) = 'blob', lower(
        substr(hex(point_row.backup_id), 1, 8) || '-' || substr(hex(point_row.backup_id), 9, 4) || '-' || substr(hex(point_row.backup_id), 13, 4)
        || '-' || substr(hex(point_row.backup_id), 17, 4) || '-' || substr(hex(point_row.backup_id), 21)), point_row.backup_id) || '.json' AS record_name,
    point_row.record_size AS record_size,
    iif(typeof(point_row.record_digest) = 'blob', lower(hex(point_row.record_digest)), point_row.record_digest) AS record_digest
FROM point_row JOIN vm_row ON vm_row.number = point_row.vm;

CREATE VIEW stream AS SELECT
    iif(typeof(stream_row.stream_id) = 'blob', lower(
        substr(hex(stream_row.stream_id), 1, 8) || '-' || substr(hex(stream_row.stream_id), 9, 4) || '-' || substr(hex(stream_row.stream_id), 13, 4)
        || '-' || substr(hex(stream_row.stream_id), 17, 4) || '-' || substr(hex(stream_row.stream_id), 21)), stream_row.stream_id) AS stream_id,
    iif(typeof(point_row.backup_id) = 'blob', lower(
        substr(hex(point_row.backup_id), 1, 8) || '-' || substr(hex(point_row.backup_id), 9, 4) || '-' || substr(hex(point_row.backup_id), 13, 4)
        || '-' || substr(hex(point_row.backup_id), 17, 4) || '-' || substr(hex(point_row.backup_id), 21)), point_row.backup_id) AS backup_id,
    disk_row.id AS disk_id,
    coalesce(stream_row.name, disk_row.id) AS name,
    CASE stream_row.kind WHEN 0 THEN 'full' WHEN 1 THEN 'incremental' WHEN 2 THEN 'synthetic' END AS kind,
    stream_row.reason AS reason,
    stream_row.size AS size,
    iif(typeof(stream_row.parent_stream_id) = 'blob', lower(
        substr(hex(stream_row.parent_stream_id), 1, 8) || '-' || substr(hex(stream_row.parent_stream_id), 9, 4) || '-' || substr(hex(stream_row.parent_stream_id), 13, 4)
        || '-' || substr(hex(stream_row.parent_stream_id), 17, 4) || '-' || substr(hex(stream_row.parent_stream_id), 21)), stream_row.parent_stream_id) AS parent_stream_id,
    stream_row.frame_size AS frame_size,
    stream_row.data_bytes AS data_bytes,
    stream_row.zero_bytes AS zero_bytes,
    stream_row.extents AS extents,
    stream_row.blob_size AS blob_size,
    iif(typeof(stream_row.blob_digest) = 'blob', lower(hex(stream_row.blob_digest)), stream_row.blob_digest) AS blob_digest,
    stream_row.index_size AS index_size,
    iif(typeof(stream_row.index_digest) = 'blob', lower(hex(stream_row.index_digest)), stream_row.index_digest) AS index_digest,
    stream_row.index_copy_size AS index_copy_size,
    iif(typeof(stream_row.index_copy_digest) = 'blob', lower(hex(stream_row.index_copy_digest)), stream_row.index_copy_digest) AS index_copy_digest,
    stream_row.changes AS changes,
    stream_row.parts AS parts,
    stream_row.format AS format,
    stream_row.sparse AS sparse,
    stream_row.interface AS interface,
    stream_row.bootable AS bootable,
    stream_row.active AS active,
    stream_row.backup_enabled AS backup_enabled,
    iif(typeof(stream_row.storage_domain_id) = 'blob', lower(
        substr(hex(stream_row.storage_domain_id), 1, 8) || '-' || substr(hex(stream_row.storage_domain_id), 9, 4) || '-' || substr(hex(stream_row.storage_domain_id), 13, 4)
        || '-' || substr(hex(stream_row.storage_domain_id), 17, 4) || '-' || substr(hex(stream_row.storage_domain_id), 21)), stream_row.storage_domain_id) AS storage_domain_id,
    stream_row.settings AS settings,
    stream_row.note AS note,
    stream_row.external AS external,
    stream_row.position AS position
FROM stream_row
JOIN point_row ON point_row.number = stream_row.point
JOIN disk_row ON disk_row.number = stream_row.disk;

CREATE VIEW left_out AS SELECT
    iif(typeof(point_row.backup_id) = 'blob', lower(
        substr(hex(point_row.backup_id), 1, 8) || '-' || substr(hex(point_row.backup_id), 9, 4) || '-' || substr(hex(point_row.backup_id), 13, 4)
        || '-' || substr(hex(point_row.backup_id), 17, 4) || '-' || substr(hex(point_row.backup_id), 21)), point_row.backup_id) AS backup_id,
    disk_row.id AS disk_id,
    coalesce(left_out_row.name, disk_row.id) AS name,
    left_out_row.reason AS reason,
    left_out_row.cause AS cause
FROM left_out_row
JOIN point_row ON point_row.number = left_out_row.point
JOIN disk_row ON disk_row.number = left_out_row.disk;

-- The indexes; a rebuild creates them after the rows. Those of ids as text also serve queries of the views.
CREATE UNIQUE INDEX point_row_by_id ON point_row (
    iif(typeof(backup_id) = 'blob', lower(
        substr(hex(backup_id), 1, 8) || '-' || substr(hex(backup_id), 9, 4) || '-' || substr(hex(backup_id), 13, 4)
        || '-' || substr(hex(backup_id), 17, 4) || '-' || substr(hex(backup_id), 21)), backup_id)
);
-- The columns after the second are all that a history of changes needs.
CREATE INDEX point_row_by_vm ON point_row (
    vm, point, kind, backup_id, parent_id, changed_data, changed_zero, changed_stored, changed_size
);
CREATE INDEX point_row_by_parent ON point_row (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX point_row_by_stands_for ON point_row (stands_for) WHERE stands_for IS NOT NULL;
-- Eight bytes of the digest suffice to find the few points that refer to a configuration.
CREATE INDEX point_row_by_configuration ON point_row (substr(configuration_digest, 1, 8))
WHERE configuration_digest IS NOT NULL;
CREATE UNIQUE INDEX stream_row_by_id ON stream_row (
    iif(typeof(stream_id) = 'blob', lower(
        substr(hex(stream_id), 1, 8) || '-' || substr(hex(stream_id), 9, 4) || '-' || substr(hex(stream_id), 13, 4)
        || '-' || substr(hex(stream_id), 17, 4) || '-' || substr(hex(stream_id), 21)), stream_id)
);
CREATE INDEX stream_row_by_parent ON stream_row (parent_stream_id) WHERE parent_stream_id IS NOT NULL;
CREATE INDEX stream_row_by_disk ON stream_row (disk);
CREATE INDEX part_row_by_point ON part_row (point);
CREATE INDEX part_row_by_disk ON part_row (disk_id);
