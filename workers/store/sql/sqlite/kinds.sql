-- name: kinds
-- Everything that is needed to run or count kinds.
SELECT id, name, policy, said, paused, max_running FROM kind ORDER BY name;

-- name: add_kind
-- A kind that was never seen gets its number.
INSERT INTO kind (name) VALUES (?) ON CONFLICT (name) DO NOTHING;

-- name: set_policy
-- The newest policy of a kind counts.
UPDATE kind SET policy = ? WHERE id = ?;

-- name: policies
-- The policies that were declared.
SELECT name, policy FROM kind WHERE policy <> '' ORDER BY name;

-- name: forget_handlers
-- A node says anew what it can run.
DELETE FROM handler WHERE node = ?;

-- name: add_handler
-- A node can run this kind.
INSERT INTO handler (node, kind_id) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: control_kind
-- An operator pauses, resumes or limits a kind.
UPDATE kind SET said = 1, paused = ?, max_running = ?, by = ?, at = ?, reason = ? WHERE id = ?;

-- name: controls
-- What operators have said.
SELECT name, paused, max_running, by, at, reason FROM kind WHERE said ORDER BY name;
