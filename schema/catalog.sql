-- The catalog: a cache of all records, for queries (docs/format.md). `pitr catalog rebuild` rebuilds it from the
-- records, row for row. Times are UTC with microseconds, sizes are bytes, digests are BLAKE3 in hex.
PRAGMA application_id = 0x70697463; -- "pitc"
PRAGMA user_version = 7;

CREATE TABLE point (
    backup_id          TEXT PRIMARY KEY,
    vm_id              TEXT NOT NULL,
    vm_name            TEXT NOT NULL,
    kind               TEXT NOT NULL,
    reason             TEXT,             -- why it is a full
    point              TEXT NOT NULL,    -- the latest possible moment of the disks' state
    lo                 TEXT NOT NULL,    -- the earliest possible moment of the disks' state
    parent_id          TEXT,             -- the backup that the incremental streams are based on
    checkpoint_id      TEXT,
    from_checkpoint_id TEXT,
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
    stands_for         TEXT,             -- the backup that a synthetic one stands for
    configuration_size   INTEGER,        -- of the object with the VM's OVF
    configuration_digest TEXT,
    record_name        TEXT NOT NULL UNIQUE,
    record_size        INTEGER NOT NULL,
    record_digest      TEXT NOT NULL     -- of the record's bytes, to notice a changed or lost record
) WITHOUT ROWID;
-- The columns after the second are all that a history of changes needs.
CREATE INDEX point_by_vm ON point (
    vm_id, point, kind, parent_id, changed_data, changed_zero, changed_stored, changed_size
);
CREATE INDEX point_by_parent ON point (parent_id);
CREATE INDEX point_by_stands_for ON point (stands_for) WHERE stands_for IS NOT NULL;
CREATE INDEX point_by_configuration ON point (configuration_digest);

CREATE TABLE stream (
    stream_id         TEXT PRIMARY KEY,
    backup_id         TEXT NOT NULL REFERENCES point (backup_id),
    disk_id           TEXT NOT NULL,
    name              TEXT NOT NULL,     -- of the disk
    kind              TEXT NOT NULL,
    reason            TEXT,
    size              INTEGER NOT NULL,  -- of the disk
    parent_stream_id  TEXT,              -- the stream that an incremental is based on
    frame_size        INTEGER NOT NULL,
    data_bytes        INTEGER NOT NULL,
    zero_bytes        INTEGER NOT NULL,
    extents           INTEGER NOT NULL,  -- rows of the index
    blob_size         INTEGER,           -- NULL for a stream without a blob of its own
    blob_digest       TEXT,
    index_size        INTEGER NOT NULL,
    index_digest      TEXT NOT NULL,
    index_copy_size   INTEGER,           -- NULL for an index that is stored once
    index_copy_digest TEXT,
    changes           TEXT,              -- how changes were found: "tracked" or "compared"
    parts             TEXT,              -- the streams whose blobs hold its frames, as JSON; NULL for only its own
    format            TEXT NOT NULL,     -- of the disk on the engine
    sparse            INTEGER NOT NULL,
    interface         TEXT,
    bootable          INTEGER NOT NULL,
    active            INTEGER NOT NULL,
    backup_enabled    INTEGER NOT NULL,
    storage_domain_id TEXT,
    settings          TEXT,              -- the disk's other settings that are not the engine's defaults, as JSON
    note              TEXT,              -- limits of the source of an imported stream
    external          TEXT,              -- compression of a blob stored externally: "zstd" or "none"
    position          INTEGER NOT NULL   -- the order of the streams in the backup
) WITHOUT ROWID;
CREATE INDEX stream_by_backup ON stream (backup_id, position);
CREATE INDEX stream_by_parent ON stream (parent_stream_id);
CREATE INDEX stream_by_disk ON stream (disk_id);

-- Disks of the VM that a backup does not include.
CREATE TABLE left_out (
    backup_id TEXT NOT NULL REFERENCES point (backup_id),
    disk_id   TEXT NOT NULL,
    name      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    cause     TEXT NOT NULL,             -- "chosen", "unable" or "missing"
    PRIMARY KEY (backup_id, disk_id)
) WITHOUT ROWID;
