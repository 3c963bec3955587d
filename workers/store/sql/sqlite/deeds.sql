-- name: add_deed
-- What an operator did with a message.
INSERT INTO deed (message_id, at, actor, verb, detail) VALUES (?, ?, ?, ?, ?);

-- name: cancel_run
-- An operator wants a run ended.
UPDATE lease SET cancel = ? WHERE message_id = ?;

-- name: done_row
-- What is needed to queue a message again that has ended.
SELECT d.state, m.kind_id, m.priority, m.unique_key, d.fence, d.stage, d.runs
FROM done AS d JOIN message AS m ON m.id = d.message_id
WHERE d.message_id = ?;

-- name: undo_done
-- It has not ended after all.
DELETE FROM done WHERE message_id = ?;

-- name: to_clone
-- What a copy of a message takes over; its parent is the message itself.
SELECT k.name, m.args, p.body, m.priority, m.unique_key, m.max_attempts, m.notify,
       m.direction, m.destination, m.sender, m.sender_adapter, m.tenant, m.created_by, m.tracking_id, m.request_id,
       m.response_id, m.reply_to, m.id, m.refs, m.content_type, m.options
FROM message AS m JOIN kind AS k ON k.id = m.kind_id LEFT JOIN payload AS p ON p.message_id = m.id
WHERE m.id = ?;
