-- name: guard_schema
-- One host changes the schema at a time.
SELECT pg_advisory_xact_lock(hashtext('bkd.schema'), hashtext(current_setting('search_path')));

-- name: steps_there
-- Whether the store has a schema at all.
SELECT to_regclass(format('%%I.schema_step', %(schema)s::text)) IS NOT NULL;

-- name: indexes
-- The indexes that are there and can be used.
SELECT c.relname
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND i.indisvalid;

-- name: make_steps
-- Where taken steps of the schema are written down.
CREATE TABLE IF NOT EXISTS schema_step (name text PRIMARY KEY, at bigint NOT NULL);

-- name: steps_taken
-- The steps that were taken, in order.
SELECT name FROM schema_step ORDER BY name;

-- name: step_taken
-- A step has been taken.
INSERT INTO schema_step (name, at) VALUES (%(name)s, %(at)s);
