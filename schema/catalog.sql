-- The catalog: what all commit records say, for looking things up (docs/format.md). A cache: `pitr catalog rebuild`
-- makes it again from the records, row for row. Times are UTC with microseconds, sizes are bytes, digests BLAKE3.
PRAGMA application_id = 0x70697463; -- "pitc"
PRAGMA user_version = 2;

CREATE TABLE point (
    backup_id          TEXT PRIMARY KEY,
    vm_id              TEXT NOT NULL,
    vm_name            TEXT NOT NULL,
    kind               TEXT NOT NULL,
    reason             TEXT,             -- why it is a full
    point              TEXT NOT NULL,    -- the label: the latest moment that the state can be of
    lo                 TEXT NOT NULL,    -- the earliest
    parent_id          TEXT,
    checkpoint_id      TEXT,
    from_checkpoint_id TEXT,
    mode               TEXT NOT NULL,
    consistency        TEXT NOT NULL,
    stored_bytes       INTEGER NOT NULL,
    duration_ms        INTEGER NOT NULL,
    pitr_version       TEXT NOT NULL,
    record_name        TEXT NOT NULL UNIQUE,
    record_size        INTEGER NOT NULL,
    record_digest      TEXT NOT NULL     -- of the record's bytes: a record that changed or went is damage
) WITHOUT ROWID;
CREATE INDEX point_by_vm ON point (vm_id, point);
CREATE INDEX point_by_parent ON point (parent_id);

CREATE TABLE stream (
    stream_id         TEXT PRIMARY KEY,
    backup_id         TEXT NOT NULL REFERENCES point (backup_id),
    disk_id           TEXT NOT NULL,
    name              TEXT NOT NULL,     -- of the disk
    kind              TEXT NOT NULL,
    reason            TEXT,
    size              INTEGER NOT NULL,  -- of the disk
    parent_stream_id  TEXT,
    frame_size        INTEGER NOT NULL,
    data_bytes        INTEGER NOT NULL,
    zero_bytes        INTEGER NOT NULL,
    extents           INTEGER NOT NULL,  -- rows of the index
    blob_size         INTEGER NOT NULL,
    blob_digest       TEXT NOT NULL,
    index_size        INTEGER NOT NULL,
    index_digest      TEXT NOT NULL,
    format            TEXT NOT NULL,     -- of the disk on the engine
    sparse            INTEGER NOT NULL,
    interface         TEXT,
    bootable          INTEGER NOT NULL,
    active            INTEGER NOT NULL,
    backup_enabled    INTEGER NOT NULL,
    storage_domain_id TEXT,
    note              TEXT,              -- what the source of an import could not tell
    external          TEXT,              -- "zstd" or "none": the blob was piped out like this, and is not here
    position          INTEGER NOT NULL   -- among the streams of its backup
) WITHOUT ROWID;
CREATE INDEX stream_by_backup ON stream (backup_id, position);
CREATE INDEX stream_by_parent ON stream (parent_stream_id);
CREATE INDEX stream_by_disk ON stream (disk_id);

-- Disks of the VM that a backup does not hold.
CREATE TABLE left_out (
    backup_id TEXT NOT NULL REFERENCES point (backup_id),
    disk_id   TEXT NOT NULL,
    name      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    PRIMARY KEY (backup_id, disk_id)
) WITHOUT ROWID;
