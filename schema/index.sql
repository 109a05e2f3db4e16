-- The extent index of one stream (docs/format.md). Written once, read-only afterwards.
PRAGMA application_id = 0x70697478; -- "pitx"
PRAGMA user_version = 2;

-- One row: the stream as in the record. It identifies an index without its record.
CREATE TABLE stream (
    stream_id        TEXT NOT NULL,
    backup_id        TEXT NOT NULL,
    disk_id          TEXT NOT NULL,
    kind             TEXT NOT NULL CHECK (kind IN ('full', 'incremental', 'synthetic')),
    size             INTEGER NOT NULL, -- of the disk, bytes
    parent_stream_id TEXT,
    frame_size       INTEGER NOT NULL  -- bytes
);

-- The blobs that hold its frames. Number 0 is the stream's own blob, if it has one.
CREATE TABLE part (
    number      INTEGER PRIMARY KEY,
    disk_id     TEXT NOT NULL,
    stream_id   TEXT NOT NULL,
    blob_size   INTEGER NOT NULL, -- bytes
    blob_digest TEXT NOT NULL     -- BLAKE3, hex
);

-- One row is one piece of a frame, or one range of zeroes (all columns after the second are NULL).
CREATE TABLE extent (
    start        INTEGER PRIMARY KEY, -- on the disk, bytes
    length       INTEGER NOT NULL,    -- on the disk, bytes
    part         INTEGER,             -- the number of the part whose blob holds the frame
    blob_offset  INTEGER,             -- of the frame in the blob
    blob_length  INTEGER,             -- of the frame in the blob, compressed
    frame_length INTEGER,             -- of the frame's uncompressed bytes
    skip         INTEGER,             -- the piece is [skip, skip + length) of the uncompressed frame
    digest       BLOB                 -- BLAKE3 of the frame's uncompressed bytes, 32 bytes
);
