-- name: past_deadline
-- Messages whose deadline has passed and was not looked at; what runs is left to its end.
SELECT d.at, d.message_id, m.kind_id, m.on_deadline, m.notify
FROM deadline AS d CROSS JOIN message AS m ON m.id = d.message_id
WHERE d.at < ? AND (m.on_deadline = 'alert' OR NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.message_id = m.id))
ORDER BY d.at, d.message_id LIMIT ?;

-- name: drop_deadline
-- It was looked at.
DELETE FROM deadline WHERE at = ? AND message_id = ?;

-- name: forget_deadlines
-- Of messages that were deleted.
DELETE FROM deadline WHERE at < ? AND NOT EXISTS (SELECT 1 FROM message AS m WHERE m.id = message_id);

-- name: is_running
-- A row if the message runs.
SELECT 1 FROM lease WHERE message_id = ?;

-- name: outlived
-- Ended messages of a kind that were kept long enough.
SELECT message_id FROM done WHERE kind_id = ? AND state = ? AND finished < ? ORDER BY finished LIMIT ?;

-- name: drop_locks
-- Locks that no run has: those of runs go with their lease.
DELETE FROM lock AS k WHERE NOT EXISTS (
  SELECT 1 FROM lease AS l WHERE l.message_id = k.message_id AND l.fence = k.fence
);

-- name: delete_attempts
-- What belongs to deleted messages: their runs.
DELETE FROM attempt WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_outputs
-- What belongs to deleted messages: finished stages.
DELETE FROM output WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_payloads
-- What belongs to deleted messages: bytes beside the arguments.
DELETE FROM payload WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_remotes
-- What belongs to deleted messages: what was exchanged.
DELETE FROM remote WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_items
-- What belongs to deleted messages: their parts.
DELETE FROM item WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_keys
-- What belongs to deleted messages: idempotency keys.
DELETE FROM idempotency WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_notices
-- What belongs to deleted messages: notifications.
DELETE FROM notification WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_deeds
-- What belongs to deleted messages: what operators did.
DELETE FROM deed WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_done
-- What belongs to deleted messages: their end.
DELETE FROM done WHERE message_id IN (SELECT value FROM carray(?));

-- name: delete_messages
-- The messages themselves.
DELETE FROM message WHERE id IN (SELECT value FROM carray(?));
