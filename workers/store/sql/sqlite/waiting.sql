-- name: waiting
-- The row of a message that waits, wherever that is.
SELECT r.message_id, r.kind_id, r.due, r.priority, r.fence, r.state, r.stage,
       r.runs, r.attempts, r.crashes, r.locks, r.polls, r.auths, r.marks, '' AS reason
FROM message AS m JOIN ready AS r
  ON r.kind_id = m.kind_id AND r.priority = m.priority AND r.due = m.due AND r.message_id = m.id
WHERE m.id = :id
UNION ALL
SELECT d.message_id, d.kind_id, d.due, d.priority, d.fence, d.state, d.stage,
       d.runs, d.attempts, d.crashes, d.locks, d.polls, d.auths, d.marks, d.reason
FROM message AS m JOIN delayed AS d ON d.kind_id = m.kind_id AND d.due = m.due AND d.message_id = m.id
WHERE m.id = :id
UNION ALL
SELECT message_id, kind_id, due, priority, fence, state, stage,
       runs, attempts, crashes, locks, polls, auths, marks, reason
FROM parked WHERE message_id = :id;

-- name: leave_ready_one
-- A message may not run any more.
DELETE FROM ready WHERE kind_id = ? AND priority = ? AND due = ? AND message_id = ?;

-- name: leave_delayed_one
-- A message is delayed no more.
DELETE FROM delayed WHERE kind_id = ? AND due = ? AND message_id = ?;

-- name: leave_parked_one
-- A message is parked no more.
DELETE FROM parked WHERE message_id = ?;

-- name: unique_of
-- The unique key a message has or waits for.
SELECT u.kind_id, u.key, u.message_id, u.next
FROM message AS m JOIN unique_key AS u ON u.kind_id = m.kind_id AND u.key = m.unique_key
WHERE m.id = ?;

-- name: unique_owner
-- Who has a unique key, and who waits for it.
SELECT message_id, next FROM unique_key WHERE kind_id = ? AND key = ?;

-- name: take_unique
-- A unique key for a message, if nobody has it.
INSERT INTO unique_key (kind_id, key, message_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: set_unique
-- Who has a unique key, and who waits for it.
UPDATE unique_key SET message_id = ?, next = ? WHERE kind_id = ? AND key = ?;

-- name: free_unique
-- Nobody has it.
DELETE FROM unique_key WHERE kind_id = ? AND key = ?;
