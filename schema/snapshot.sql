-- A snapshot of the catalog (docs/format.md) has the tables of schema/catalog.sql, without views and indexes, and these.
-- It also has the points that tombstones hid.

CREATE TABLE snapshot (
    repository_id TEXT NOT NULL
);

-- The points that a tombstone hid.
CREATE TABLE hidden_row (
    point INTEGER PRIMARY KEY REFERENCES point_row (number)
);
