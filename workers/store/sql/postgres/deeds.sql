-- name: guard_unique
-- Nobody gives a unique key of these messages away until this transaction ends.
SELECT 1 FROM unique_key WHERE message_id = ANY (%(ids)s::bigint[]) OR next = ANY (%(ids)s::bigint[]) FOR UPDATE;

-- name: end_waiting
-- Messages that wait will not run; those this was true for.
WITH unready AS (
  DELETE FROM ready WHERE message_id = ANY (%(ids)s::bigint[])
  RETURNING message_id, fence, kind_id, runs, attempts, crashes, locks, polls, auths, stage
), undelayed AS (
  DELETE FROM delayed WHERE message_id = ANY (%(ids)s::bigint[])
  RETURNING message_id, fence, kind_id, runs, attempts, crashes, locks, polls, auths, stage
), unparked AS (
  DELETE FROM parked WHERE message_id = ANY (%(ids)s::bigint[])
  RETURNING message_id, fence, kind_id, runs, attempts, crashes, locks, polls, auths, stage
)
INSERT INTO done (message_id, fence, kind_id, runs, attempts, crashes, locks, polls, auths, stage, finished, state, reason)
SELECT g.*, %(now)s, %(state)s::state, nullif(%(reason)s, '') FROM (
  SELECT * FROM unready UNION ALL SELECT * FROM undelayed UNION ALL SELECT * FROM unparked
) AS g
RETURNING message_id;

-- name: forget_next
-- Messages that stood in line for a unique key and have ended do so no more.
UPDATE unique_key AS u SET next = NULL
WHERE u.next = ANY (%(ids)s::bigint[]) AND EXISTS (SELECT 1 FROM done AS d WHERE d.message_id = u.next);

-- name: cancel_runs
-- An operator wants runs ended; those this was true for.
UPDATE lease SET cancel = true WHERE message_id = ANY (%(ids)s::bigint[]) RETURNING message_id;

-- name: moving
-- Messages that are neither running nor at their end.
SELECT message_id FROM standing WHERE message_id = ANY (%(ids)s::bigint[]) AND state NOT IN ('running') AND state < 'succeeded';

-- name: revive
-- Dead letters and cancelled ones are queued again, unless another one has their unique key; those this was true for.
WITH wanted AS MATERIALIZED (
  SELECT d.*, m.priority, m.unique_key FROM done AS d JOIN message AS m ON m.id = d.message_id
  WHERE d.message_id = ANY (%(ids)s::bigint[]) AND d.state IN ('dead_letter', 'cancelled')
  ORDER BY d.message_id FOR UPDATE OF d
), taken AS (
  INSERT INTO unique_key (kind_id, key, message_id)
  SELECT kind_id, unique_key, message_id FROM wanted WHERE unique_key IS NOT NULL ORDER BY message_id
  ON CONFLICT DO NOTHING RETURNING message_id
), able AS MATERIALIZED (
  SELECT * FROM wanted WHERE unique_key IS NULL OR message_id IN (SELECT message_id FROM taken)
), undone AS (
  DELETE FROM done AS d USING able AS a WHERE d.message_id = a.message_id
)
INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
SELECT message_id, %(now)s, kind_id, priority, fence, runs, 0, 0, 0, 0, 0, stage, 'queued' FROM able
RETURNING message_id;

-- name: hurry
-- What waits for a retry is due now; those this was true for.
WITH gone AS (
  DELETE FROM delayed WHERE message_id = ANY (%(ids)s::bigint[]) AND state = 'retry_scheduled' RETURNING *
), put AS (
  INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT message_id, least(due, %(now)s), kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state
  FROM gone
)
SELECT message_id FROM gone
UNION ALL
SELECT message_id FROM ready WHERE message_id = ANY (%(ids)s::bigint[]) AND state = 'retry_scheduled';

-- name: to_clone
-- What a copy of a message takes over; its parent is the message itself.
SELECT k.name, m.args, coalesce(p.body, ''), m.priority, coalesce(m.unique_key, ''), m.max_attempts, coalesce(m.notify, ''),
       coalesce(m.direction, 'task'), coalesce(m.destination, ''), coalesce(m.sender, ''), coalesce(m.sender_adapter, ''),
       coalesce(m.tenant, ''), coalesce(m.created_by, ''), coalesce(m.tracking_id, ''), coalesce(m.request_id, ''),
       coalesce(m.response_id, ''), coalesce(m.reply_to, ''), m.id, coalesce(m.refs, ''), coalesce(m.content_type, ''),
       coalesce(m.options, '')
FROM message AS m JOIN kind AS k ON k.id = m.kind_id LEFT JOIN payload AS p ON p.message_id = m.id
WHERE m.id = %(id)s;

-- name: add_deeds
-- What an operator did with messages.
INSERT INTO deed (message_id, at, actor, verb, detail)
SELECT g.id, %(now)s, %(actor)s, %(verb)s, coalesce(g.detail, '')
FROM unnest(%(ids)s::bigint[], %(details)s::text[]) AS g (id, detail);

-- name: delete_ended
-- Messages that have ended, with all that belongs to them; those this was true for.
WITH gone AS (DELETE FROM done WHERE message_id = ANY (%(ids)s::bigint[]) RETURNING message_id),
a AS (DELETE FROM attempt AS t USING gone AS g WHERE t.message_id = g.message_id),
b AS (DELETE FROM output AS t USING gone AS g WHERE t.message_id = g.message_id),
c AS (DELETE FROM payload AS t USING gone AS g WHERE t.message_id = g.message_id),
d AS (DELETE FROM remote AS t USING gone AS g WHERE t.message_id = g.message_id),
j AS (DELETE FROM item AS t USING gone AS g WHERE t.message_id = g.message_id),
e AS (DELETE FROM idempotency AS t USING gone AS g WHERE t.message_id = g.message_id),
f AS (DELETE FROM notification AS t USING gone AS g WHERE t.message_id = g.message_id),
h AS (DELETE FROM deed AS t USING gone AS g WHERE t.message_id = g.message_id),
k AS (DELETE FROM lock AS t USING gone AS g WHERE t.message_id = g.message_id),
i AS (DELETE FROM message AS t USING gone AS g WHERE t.id = g.message_id)
SELECT message_id FROM gone;

-- name: past_deadline
-- Messages whose deadline has passed and was not looked at.
SELECT d.at, d.message_id, k.name, coalesce(m.on_deadline, 'expire'), coalesce(m.notify, '')
FROM deadline AS d JOIN message AS m ON m.id = d.message_id JOIN kind AS k ON k.id = m.kind_id
WHERE d.at < %(now)s ORDER BY d.at, d.message_id LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED;

-- name: running_of
-- Which of these run.
SELECT message_id FROM lease WHERE message_id = ANY (%(ids)s::bigint[]);

-- name: alive_of
-- Which of these have not ended.
SELECT message_id FROM standing WHERE message_id = ANY (%(ids)s::bigint[]) AND state < 'succeeded';

-- name: drop_deadlines
-- They were looked at.
DELETE FROM deadline WHERE (at, message_id) IN (SELECT * FROM unnest(%(ats)s::bigint[], %(ids)s::bigint[]));

-- name: postpone_deadlines
-- They are looked at again.
UPDATE deadline SET at = %(later)s
WHERE (at, message_id) IN (SELECT * FROM unnest(%(ats)s::bigint[], %(ids)s::bigint[]));

-- name: forget_deadlines
-- Of messages that were deleted.
DELETE FROM deadline AS d WHERE d.at < %(now)s AND NOT EXISTS (SELECT 1 FROM message AS m WHERE m.id = d.message_id);

-- name: add_notices
-- Notifications, once for each reason to send them.
INSERT INTO notification (message_id, addressee, subject, text, dedup, due)
SELECT g.id, g.addressee, g.subject, g.text, g.dedup, %(now)s
FROM unnest(%(ids)s::bigint[], %(addressees)s::text[], %(subjects)s::text[], %(texts)s::text[], %(dedups)s::text[])
  AS g (id, addressee, subject, text, dedup)
ON CONFLICT (dedup) DO NOTHING;

-- name: outlived
-- Ended messages that were kept long enough.
SELECT o.message_id
FROM unnest(%(kinds)s::int[], %(states)s::state[], %(sinces)s::bigint[]) AS k (id, state, since)
CROSS JOIN LATERAL (
  SELECT message_id FROM done WHERE kind_id = k.id AND state = k.state AND finished < k.since ORDER BY finished LIMIT %(limit)s
) AS o
LIMIT %(limit)s;

-- name: sweep_executors
-- Executors that came long ago and hold nothing, if their slot has had another one since, or their host is dead.
DELETE FROM executor AS e
WHERE e.enlisted < %(before)s AND NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.holder = e.id)
  AND (EXISTS (SELECT 1 FROM executor AS o WHERE o.node = e.node AND o.slot = e.slot AND o.id > e.id)
       OR NOT EXISTS (SELECT 1 FROM node AS n WHERE n.id = e.node AND NOT n.lost));

-- name: sweep_nodes
-- Hosts that have been dead for long, and of which nothing is left: each start of a container may be another one.
WITH gone AS (
  DELETE FROM node AS n
  WHERE n.lost AND n.until < %(before)s AND NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.node = n.id)
    AND NOT EXISTS (SELECT 1 FROM executor AS e WHERE e.node = n.id)
  RETURNING id
)
DELETE FROM handler AS h USING gone AS g WHERE h.node = g.id;

-- name: dead_locks
-- Locks whose lease is gone.
SELECT k.key FROM lock AS k
WHERE NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.message_id = k.message_id AND l.fence = k.fence)
LIMIT %(limit)s;

-- name: drop_locks
-- Locks that are of no use, if that is still so.
DELETE FROM lock AS k WHERE k.key = ANY (%(keys)s::text[])
  AND NOT EXISTS (SELECT 1 FROM lease AS l WHERE l.message_id = k.message_id AND l.fence = k.fence);
