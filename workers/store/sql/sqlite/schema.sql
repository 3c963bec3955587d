-- name: tables
-- What lies in the file.
SELECT name FROM sqlite_schema WHERE type = 'table';

-- name: indexes
-- The indexes that are there.
SELECT name FROM sqlite_schema WHERE type = 'index';

-- name: make_steps
-- Where taken steps of the schema are written down.
CREATE TABLE IF NOT EXISTS schema_step (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT;

-- name: steps_taken
-- The steps that were taken, in order.
SELECT name FROM schema_step ORDER BY rowid;

-- name: step_taken
-- A step has been taken.
INSERT INTO schema_step (name, at) VALUES (?, unixepoch());
