-- name: settle
-- Runs have ended: from their lease to where they stand now, with their attempt; gives those that held their lease.
-- What an operator has cancelled does not run again.
WITH given AS MATERIALIZED (
  SELECT * FROM unnest(
    %(id)s::bigint[], %(fence)s::bigint[], %(state)s::state[], %(runs)s::int[], %(attempts)s::int[], %(crashes)s::int[],
    %(locks)s::int[], %(polls)s::int[], %(auths)s::int[], %(stage)s::int[], %(due)s::bigint[], %(reason)s::text[],
    %(result)s::bytea[], %(number)s::int[], %(at_stage)s::int[], %(worker)s::text[], %(pid)s::int[],
    %(started)s::bigint[], %(ended)s::bigint[], %(outcome)s::text[], %(fault)s::text[], %(code)s::text[],
    %(text)s::text[], %(stack)s::text[], %(addressee)s::text[], %(subject)s::text[], %(notice)s::text[],
    %(dedup)s::text[]
  ) AS g (id, fence, state, runs, attempts, crashes, locks, polls, auths, stage, due, reason, result,
          number, at_stage, worker, pid, started, ended, outcome, fault, code, text, stack,
          addressee, subject, notice, dedup)
), gone AS (
  DELETE FROM lease AS l USING given AS g WHERE l.message_id = g.id AND l.fence = g.fence
  RETURNING g.*, l.kind_id, l.priority, greatest(l.stage, g.stage) AS now_stage,
            CASE WHEN coalesce(g.due, 0) > 0 THEN g.due ELSE l.due END AS now_due,
            CASE WHEN l.cancel AND g.state < 'succeeded' THEN 'cancelled' ELSE g.state END AS now_state,
            CASE WHEN l.cancel AND g.state < 'succeeded' THEN '' ELSE g.reason END AS now_reason
), keyed AS MATERIALIZED (
  SELECT 1 FROM unique_key WHERE message_id = ANY (%(keyed)s::bigint[]) FOR UPDATE
), ended AS (
  INSERT INTO done (message_id, finished, fence, kind_id, state, runs, attempts, crashes, locks, polls, auths, stage,
                    reason, result)
  SELECT id, %(now)s, fence, kind_id, now_state, runs, attempts, coalesce(crashes, 0), coalesce(locks, 0),
         coalesce(polls, 0), coalesce(auths, 0), now_stage, nullif(now_reason, ''), result
  FROM gone WHERE now_state >= 'succeeded'
), again AS (
  INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT id, now_due, kind_id, priority, fence, runs, attempts, coalesce(crashes, 0), coalesce(locks, 0),
         coalesce(polls, 0), coalesce(auths, 0), now_stage, state
  FROM gone WHERE now_state < 'blocked' AND now_due <= %(now)s
), later AS (
  INSERT INTO delayed (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage,
                       state, reason)
  SELECT id, now_due, kind_id, priority, fence, runs, attempts, coalesce(crashes, 0), coalesce(locks, 0),
         coalesce(polls, 0), coalesce(auths, 0), now_stage, state, nullif(reason, '')
  FROM gone WHERE now_state < 'blocked' AND now_due > %(now)s
), waiting AS (
  INSERT INTO parked (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage,
                      state, reason)
  SELECT id, now_due, kind_id, priority, fence, runs, attempts, coalesce(crashes, 0), coalesce(locks, 0),
         coalesce(polls, 0), coalesce(auths, 0), now_stage, state, nullif(reason, '')
  FROM gone WHERE now_state = 'blocked'
), tried AS (
  INSERT INTO attempt (message_id, fence, started, ended, number, stage, pid, worker, result, fault, code, text, stack)
  SELECT id, fence, started, ended, number, coalesce(at_stage, 0), pid, worker, outcome, nullif(fault, ''),
         nullif(code, ''), nullif(text, ''), nullif(stack, '')
  FROM gone WHERE number >= 0
), told AS (
  INSERT INTO notification (message_id, addressee, subject, text, dedup, due)
  SELECT id, addressee, subject, notice, dedup, %(now)s FROM gone WHERE dedup <> ''
  ON CONFLICT (dedup) DO NOTHING
)
SELECT id, fence FROM gone WHERE (SELECT count(*) FROM keyed) >= 0;

-- name: release_unique
-- Unique keys of what has ended: free, or of the message that was parked behind it, which may run now.
WITH ended AS MATERIALIZED (
  SELECT u.* FROM unique_key AS u
  WHERE u.message_id = ANY (%(ids)s::bigint[]) AND EXISTS (SELECT 1 FROM done AS d WHERE d.message_id = u.message_id)
), freed AS (
  DELETE FROM unique_key AS u USING ended AS e WHERE u.kind_id = e.kind_id AND u.key = e.key AND e.next IS NULL
), passed AS (
  UPDATE unique_key AS u SET message_id = e.next, next = NULL
  FROM ended AS e WHERE u.kind_id = e.kind_id AND u.key = e.key AND e.next IS NOT NULL
  RETURNING u.message_id
), woken AS (
  DELETE FROM parked AS p USING passed WHERE p.message_id = passed.message_id RETURNING p.*
), later AS (
  INSERT INTO delayed (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, 'queued'
  FROM woken WHERE due > %(now)s
)
INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
SELECT message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, 'queued'
FROM woken WHERE due <= %(now)s;

-- name: record_late
-- Settlements without a lease: what was written before by the very same run is no news, else its attempt says it is late,
-- if there was such a lease and it is gone.
WITH given AS MATERIALIZED (
  SELECT * FROM unnest(
    %(id)s::bigint[], %(fence)s::bigint[], %(number)s::int[], %(at_stage)s::int[], %(worker)s::text[], %(pid)s::int[],
    %(started)s::bigint[], %(ended)s::bigint[], %(outcome)s::text[], %(fault)s::text[], %(code)s::text[],
    %(text)s::text[], %(stack)s::text[], %(late)s::text[]
  ) AS g (id, fence, number, at_stage, worker, pid, started, ended, outcome, fault, code, text, stack, late)
), news AS (
  SELECT g.* FROM given AS g
  WHERE NOT EXISTS (SELECT 1 FROM attempt AS a
                    WHERE a.message_id = g.id AND a.fence = g.fence AND a.result = g.outcome AND a.late IS NULL)
), told AS (
  INSERT INTO attempt (message_id, fence, started, ended, number, stage, pid, worker, result, fault, code, text, stack, late)
  SELECT id, fence, started, ended, number, coalesce(at_stage, 0), pid, worker, outcome, nullif(fault, ''),
         nullif(code, ''), nullif(text, ''), nullif(stack, ''), late
  FROM news WHERE number >= 0 AND EXISTS (
    SELECT 1 FROM standing AS s
    WHERE s.message_id = news.id
      AND news.fence BETWEEN 1 AND CASE WHEN s.state = 'running' THEN s.fence - 1 ELSE s.fence END
  )
  ON CONFLICT (message_id, fence) DO UPDATE SET late = excluded.late
)
SELECT id, fence FROM news;

-- name: keep_stages
-- Outputs of finished stages, of runs that hold their lease; one that is there already stays.
WITH given AS MATERIALIZED (
  SELECT * FROM unnest(%(id)s::bigint[], %(fence)s::bigint[], %(stage)s::int[], %(body)s::bytea[])
    AS g (id, fence, stage, body)
), held AS (
  UPDATE lease AS l SET stage = greatest(l.stage, top.stage + 1)
  FROM (SELECT id, fence, max(stage) AS stage FROM given GROUP BY id, fence) AS top
  WHERE l.message_id = top.id AND l.fence = top.fence
  RETURNING l.message_id, l.fence
), kept AS (
  INSERT INTO output (message_id, stage, body)
  SELECT g.id, g.stage, g.body FROM given AS g JOIN held AS h ON h.message_id = g.id AND h.fence = g.fence
  ON CONFLICT (message_id, stage) DO NOTHING
)
SELECT message_id, fence FROM held;

-- name: guard_locks
-- Whoever is given one of these locks has been committed when the next statement looks.
SELECT pg_advisory_xact_lock(hashtext('bkd.lock'), hash)
FROM (SELECT DISTINCT hashtext(key) AS hash FROM unnest(%(keys)s::text[]) AS g (key) ORDER BY 1) AS g;

-- name: grant_locks
-- Locks for runs that hold their lease, where nobody else has them: whose lease is gone has none. Of those that ask for
-- the same one, whoever has it comes first. An EXISTS might be hashed, which reads all of a table.
WITH held AS MATERIALIZED (
  SELECT g.*, coalesce((SELECT k.message_id = g.id FROM lock AS k WHERE k.key = g.key), false) AS has_it
  FROM unnest(%(id)s::bigint[], %(fence)s::bigint[], %(key)s::text[]) WITH ORDINALITY AS g (id, fence, key, nth)
  JOIN lease AS l ON l.message_id = g.id AND l.fence = g.fence
  FOR KEY SHARE OF l
)
INSERT INTO lock (key, message_id, fence)
SELECT DISTINCT ON (key) key, id, fence FROM held ORDER BY key, has_it DESC, nth
ON CONFLICT (key) DO UPDATE SET message_id = excluded.message_id, fence = excluded.fence
WHERE lock.message_id = excluded.message_id
   OR (SELECT o.fence FROM lease AS o WHERE o.message_id = lock.message_id) IS DISTINCT FROM lock.fence
RETURNING message_id, fence, key;

-- name: begin
-- These runs have begun.
UPDATE lease AS l SET began = true
FROM unnest(%(id)s::bigint[], %(fence)s::bigint[]) AS g (id, fence)
WHERE l.message_id = g.id AND l.fence = g.fence AND NOT l.began;

-- name: note_progress
-- A word about how far runs are.
UPDATE lease AS l SET progress = g.word
FROM unnest(%(id)s::bigint[], %(fence)s::bigint[], %(word)s::bytea[]) AS g (id, fence, word)
WHERE l.message_id = g.id AND l.fence = g.fence;

-- name: give_back
-- What was claimed by a turn whose answer was lost: nobody runs it, so that it waits again and has cost nothing.
WITH gone AS (
  DELETE FROM lease AS l WHERE l.node = %(node)s AND NOT EXISTS (
    SELECT 1 FROM unnest(%(id)s::bigint[], %(fence)s::bigint[]) AS h (id, fence)
    WHERE h.id = l.message_id AND h.fence = l.fence)
  RETURNING *
)
INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
SELECT message_id, due, kind_id, priority, fence, runs - 1, attempts - 1, crashes, locks, polls, auths, stage,
       CASE WHEN runs > 1 THEN 'retry_scheduled' ELSE 'queued' END::state
FROM gone;
