-- name: next_numbers
-- Take so many numbers for messages; the first one after them.
UPDATE sequence SET next = next + ? WHERE name = 'message' RETURNING next;

-- name: add_message
-- A message that comes from nowhere in particular; one whose guid is there already is left out.
INSERT INTO message (id, guid, kind_id, args, payload_size, priority, created, due, max_attempts,
                     deadline, on_deadline, key, unique_key, notify)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (guid) DO NOTHING;

-- name: add_routed
-- A message with all that is known of where it comes from and goes to.
INSERT INTO message (id, guid, kind_id, args, payload_size, priority, created, due, max_attempts,
                     deadline, on_deadline, key, unique_key, notify,
                     direction, destination, sender, sender_adapter, tenant, created_by, tracking_id, request_id,
                     response_id, reply_to, parent_id, refs, content_type, options)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (guid) DO NOTHING;

-- name: new_ready
-- New messages that are due may run.
INSERT INTO ready
  (kind_id, priority, due, message_id, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks)
SELECT kind_id, priority, due, id, 0, 'queued', 0, 0, 0, 0, 0, 0, 0, 0
FROM message WHERE id BETWEEN ? AND ? AND due <= ?;

-- name: new_delayed
-- New messages that are not due yet wait.
INSERT INTO delayed
  (kind_id, priority, due, message_id, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks, reason)
SELECT kind_id, priority, due, id, 0, 'queued', 0, 0, 0, 0, 0, 0, 0, 0, ''
FROM message WHERE id BETWEEN ? AND ? AND due > ?;

-- name: add_payload
-- Bytes beside the arguments.
INSERT INTO payload (message_id, body) VALUES (?, ?);

-- name: drop_payload
-- A message has other bytes, or none.
DELETE FROM payload WHERE message_id = ?;

-- name: payload
-- The bytes beside the arguments.
SELECT body FROM payload WHERE message_id = ?;

-- name: add_deadline
-- Somebody has to look at this message then.
INSERT INTO deadline (at, message_id) VALUES (?, ?);

-- name: id_of_guid
-- The number of the message of this guid.
SELECT id FROM message WHERE guid = ?;

-- name: guid_and_state
-- What a receipt tells of a message that is there.
SELECT m.guid, coalesce(l.state, d.state, e.state, p.state, r.state, 'queued')
FROM message AS m
LEFT JOIN done AS d ON d.message_id = m.id
LEFT JOIN (SELECT message_id, 'running' AS state FROM lease WHERE message_id = :id) AS l ON l.message_id = m.id
LEFT JOIN parked AS p ON p.message_id = m.id
LEFT JOIN delayed AS e ON e.kind_id = m.kind_id AND e.due = m.due AND e.message_id = m.id
LEFT JOIN ready AS r
  ON r.kind_id = m.kind_id AND r.priority = m.priority AND r.due = m.due AND r.message_id = m.id
WHERE m.id = :id;

-- name: idempotent
-- The message of an idempotency key, and what it was.
SELECT message_id, digest FROM idempotency WHERE sender = ? AND key = ?;

-- name: keep_key
-- An idempotency key stands for this message.
INSERT INTO idempotency (sender, key, message_id, digest) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: replace_args
-- New arguments for a message that waits.
UPDATE message SET args = ?, payload_size = ? WHERE id = ?;
