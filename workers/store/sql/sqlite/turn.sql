-- name: leases_of
-- The leases of some messages, as settling needs them.
SELECT l.message_id, l.fence, l.kind_id, l.priority, l.due, l.stage, l.marks, l.cancel
FROM carray(?) AS asked CROSS JOIN lease AS l ON l.message_id = asked.value;

-- name: free_leases
-- These are not running any more.
DELETE FROM lease WHERE message_id IN (SELECT value FROM carray(?));

-- name: advance_stage
-- A stage is finished, if the run holds its lease.
UPDATE lease SET stage = max(stage, ?) WHERE message_id = ? AND fence = ?;

-- name: keep_output
-- The output of a stage; what is there already stays.
INSERT INTO output (message_id, stage, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: begin
-- A run has begun.
UPDATE lease SET began = ? WHERE message_id = ? AND fence = ?;

-- name: note_progress
-- A word about how far a run is.
UPDATE lease SET progress = ? WHERE message_id = ? AND fence = ?;

-- name: lock
-- A lock for a run that holds its lease, if nobody else has the lock: whose lease is gone has it no more.
INSERT INTO lock (key, message_id, fence)
SELECT ?1, l.message_id, l.fence FROM lease AS l WHERE l.message_id = ?2 AND l.fence = ?3
ON CONFLICT (key) DO UPDATE SET message_id = excluded.message_id, fence = excluded.fence
WHERE lock.message_id = excluded.message_id
   OR NOT EXISTS (SELECT 1 FROM lease AS other WHERE other.message_id = lock.message_id AND other.fence = lock.fence);

-- name: mark_locked
-- When this lease goes, there are locks to be deleted.
UPDATE lease SET marks = marks | ? WHERE message_id = ?;

-- name: unlock
-- The locks of these messages are free.
DELETE FROM lock WHERE message_id IN (SELECT value FROM carray(?));

-- name: add_attempt
-- How a run ended.
INSERT OR REPLACE INTO attempt
  (message_id, fence, number, stage, worker, pid, started, ended, result, fault, code, text, stack, late)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: attempt_result
-- What is known of a run: how it ended, and what came late.
SELECT result, late FROM attempt WHERE message_id = ? AND fence = ?;

-- name: add_late
-- A run tells its end when the lease is not its own any more.
INSERT INTO attempt
  (message_id, fence, number, stage, worker, pid, started, ended, result, fault, code, text, stack, late)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET late = excluded.late;

-- name: last_gone
-- The last lease that a message had and has no more; -1 when there is no such message.
SELECT coalesce(
  (SELECT fence - 1 FROM lease WHERE message_id = :id),
  (SELECT fence FROM done WHERE message_id = :id),
  (SELECT r.fence FROM message AS m JOIN ready AS r
   ON r.kind_id = m.kind_id AND r.priority = m.priority AND r.due = m.due AND r.message_id = m.id WHERE m.id = :id),
  (SELECT d.fence FROM message AS m JOIN delayed AS d
   ON d.kind_id = m.kind_id AND d.due = m.due AND d.message_id = m.id WHERE m.id = :id),
  (SELECT fence FROM parked WHERE message_id = :id),
  -1
);

-- name: add_done
-- A message has ended.
INSERT INTO done
  (message_id, kind_id, state, finished, reason, fence, stage, runs, attempts, crashes, locks, polls, auths, result)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_ready
-- A message may run.
INSERT INTO ready
  (message_id, kind_id, due, priority, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_delayed
-- A message may run later.
INSERT INTO delayed
  (message_id, kind_id, due, priority, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_parked
-- A message waits for something else than time.
INSERT INTO parked
  (message_id, kind_id, due, priority, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: move_due
-- Where the row of a waiting message is found: its place in ready and delayed depends on this moment.
UPDATE message SET due = ? WHERE id = ?;

-- name: add_notice
-- A notification, once for each reason to send it.
INSERT INTO notification (message_id, addressee, subject, text, dedup, due) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (dedup) DO NOTHING;

-- name: next_due
-- When the next delayed message of a kind is due.
SELECT min(due) FROM delayed WHERE kind_id = ?;

-- name: last_due
-- The last of a number of due messages of a kind, if there are so many.
SELECT due, message_id FROM delayed WHERE kind_id = ? AND due <= ? ORDER BY due, message_id LIMIT 1 OFFSET ?;

-- name: last_of_due
-- The last of all due messages of a kind.
SELECT due, message_id FROM delayed WHERE kind_id = ? AND due <= ? ORDER BY due DESC, message_id DESC LIMIT 1;

-- name: promote
-- Delayed messages of a kind up to one of them may run.
INSERT INTO ready
  (kind_id, priority, due, message_id, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks)
SELECT kind_id, priority, due, message_id, fence, state, stage, runs, attempts, crashes, locks, polls, auths, marks
FROM delayed WHERE kind_id = ? AND (due, message_id) <= (?, ?);

-- name: leave_delayed
-- Delayed messages of a kind up to one of them are delayed no more.
DELETE FROM delayed WHERE kind_id = ? AND (due, message_id) <= (?, ?);

-- name: running
-- How many messages of a kind run.
SELECT count(*) FROM lease WHERE kind_id = ?;

-- name: levels
-- The priorities that wait in a kind: one step into the index for each.
WITH RECURSIVE level (priority) AS (
  SELECT min(priority) FROM ready WHERE kind_id = ?1
  UNION ALL
  SELECT (SELECT min(priority) FROM ready WHERE kind_id = ?1 AND priority > level.priority)
  FROM level WHERE level.priority IS NOT NULL
)
SELECT priority FROM level WHERE priority IS NOT NULL;

-- name: offer
-- The next messages of a kind in the order in which they run, with all that a run needs.
SELECT r.priority, r.due, r.message_id, r.fence, r.kind_id, r.stage,
       r.runs, r.attempts, r.crashes, r.locks, r.polls, r.auths, r.marks,
       m.guid, m.args, m.created, m.deadline, m.key, m.max_attempts, m.notify, m.payload_size,
       m.tracking_id, m.parent_id, m.sender
FROM ready AS r CROSS JOIN message AS m ON m.id = r.message_id
WHERE r.kind_id = ?
ORDER BY r.priority, r.due, r.message_id
LIMIT ?;

-- name: offer_of_level
-- The next messages of one priority of a kind.
SELECT r.priority, r.due, r.message_id, r.fence, r.kind_id, r.stage,
       r.runs, r.attempts, r.crashes, r.locks, r.polls, r.auths, r.marks,
       m.guid, m.args, m.created, m.deadline, m.key, m.max_attempts, m.notify, m.payload_size,
       m.tracking_id, m.parent_id, m.sender
FROM ready AS r CROSS JOIN message AS m ON m.id = r.message_id
WHERE r.kind_id = ? AND r.priority = ?
ORDER BY r.due, r.message_id
LIMIT ?;

-- name: leave_ready
-- What was claimed of a level: all up to the last one.
DELETE FROM ready WHERE kind_id = ? AND priority = ? AND (due, message_id) <= (?, ?);

-- name: add_lease
-- A message runs.
INSERT INTO lease
  (message_id, fence, kind_id, priority, due, stage, runs, attempts, crashes, locks, polls, auths, marks,
   node, holder, leased)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: outputs
-- What finished stages of some messages came to, in their order.
SELECT o.message_id, o.body FROM carray(?) AS asked CROSS JOIN output AS o ON o.message_id = asked.value
ORDER BY o.message_id, o.stage;
