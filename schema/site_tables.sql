-- The views of the catalog as tables, for `pitr catalog serve`: a page for each row, and links between them.
CREATE TABLE point_text (
    backup_id          TEXT PRIMARY KEY,
    vm_id              TEXT NOT NULL,
    vm_name            TEXT NOT NULL,
    kind               TEXT NOT NULL,
    reason             TEXT,
    point              TEXT NOT NULL,
    lo                 TEXT NOT NULL,
    parent_id          TEXT,
    checkpoint_id      TEXT,
    from_checkpoint_id TEXT,
    mode               TEXT NOT NULL,
    consistency        TEXT NOT NULL,
    stored_bytes       INTEGER NOT NULL,
    data_bytes         INTEGER NOT NULL,
    zero_bytes         INTEGER NOT NULL,
    changed_data       INTEGER NOT NULL,
    changed_zero       INTEGER NOT NULL,
    changed_stored     INTEGER NOT NULL,
    changed_size       INTEGER NOT NULL,
    duration_ms        INTEGER NOT NULL,
    pitr_version       TEXT NOT NULL,
    stands_for         TEXT,
    configuration_size INTEGER,
    configuration_digest TEXT,
    record_name        TEXT NOT NULL UNIQUE,
    record_size        INTEGER NOT NULL,
    record_digest      TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE stream_text (
    stream_id         TEXT PRIMARY KEY,
    backup_id         TEXT NOT NULL REFERENCES point (backup_id),
    disk_id           TEXT NOT NULL,
    name              TEXT NOT NULL,
    kind              TEXT NOT NULL,
    reason            TEXT,
    size              INTEGER NOT NULL,
    parent_stream_id  TEXT,
    frame_size        INTEGER NOT NULL,
    data_bytes        INTEGER NOT NULL,
    zero_bytes        INTEGER NOT NULL,
    extents           INTEGER NOT NULL,
    blob_size         INTEGER,
    blob_digest       TEXT,
    index_size        INTEGER NOT NULL,
    index_digest      TEXT NOT NULL,
    index_copy_size   INTEGER,
    index_copy_digest TEXT,
    changes           TEXT,
    parts             TEXT,
    format            TEXT NOT NULL,
    sparse            INTEGER NOT NULL,
    interface         TEXT,
    bootable          INTEGER NOT NULL,
    active            INTEGER NOT NULL,
    backup_enabled    INTEGER NOT NULL,
    storage_domain_id TEXT,
    settings          TEXT,
    note              TEXT,
    external          TEXT,
    position          INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE left_out_text (
    backup_id TEXT NOT NULL REFERENCES point (backup_id),
    disk_id   TEXT NOT NULL,
    name      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    cause     TEXT NOT NULL,
    PRIMARY KEY (backup_id, disk_id)
) WITHOUT ROWID;

INSERT INTO point_text SELECT * FROM point;
INSERT INTO stream_text SELECT * FROM stream;
INSERT INTO left_out_text SELECT * FROM left_out;
DROP VIEW point;
DROP VIEW stream;
DROP VIEW left_out;
DROP TABLE part_row;
DROP TABLE left_out_row;
DROP TABLE stream_row;
DROP TABLE point_row;
DROP TABLE disk_row;
DROP TABLE name_row;
DROP TABLE vm_row;
-- The view vm names the tables before they have their names.
PRAGMA legacy_alter_table = ON;
ALTER TABLE point_text RENAME TO point;
ALTER TABLE stream_text RENAME TO stream;
ALTER TABLE left_out_text RENAME TO left_out;

CREATE INDEX point_by_vm ON point (vm_id, point);
CREATE INDEX point_by_parent ON point (parent_id);
CREATE INDEX stream_by_backup ON stream (backup_id, position);
CREATE INDEX stream_by_parent ON stream (parent_stream_id);
CREATE INDEX stream_by_disk ON stream (disk_id);
