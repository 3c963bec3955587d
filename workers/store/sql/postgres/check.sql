-- name: check_places
-- A message is in one place, exactly.
SELECT format('message %s is in %s places', message_id, count(*)) FROM standing
GROUP BY message_id HAVING count(*) > 1 LIMIT 20;

-- name: check_nowhere
-- No message is in no place.
SELECT format('message %s is in no place', m.id) FROM message AS m
WHERE NOT EXISTS (SELECT 1 FROM standing AS s WHERE s.message_id = m.id) LIMIT 20;

-- name: check_strays
-- What belongs to a message has one.
SELECT format('%s has message %s, which is not there', place, message_id) FROM (
  SELECT state::text AS place, message_id FROM standing
  UNION ALL SELECT 'attempt', message_id FROM attempt
  UNION ALL SELECT 'output', message_id FROM output
  UNION ALL SELECT 'payload', message_id FROM payload
  UNION ALL SELECT 'idempotency', message_id FROM idempotency
  UNION ALL SELECT 'unique_key', message_id FROM unique_key
  UNION ALL SELECT 'unique_key', next FROM unique_key WHERE next IS NOT NULL
) AS g WHERE NOT EXISTS (SELECT 1 FROM message AS m WHERE m.id = g.message_id) LIMIT 20;

-- name: check_kinds
-- A waiting row stands under the kind and the priority of its message.
SELECT format('message %s waits under another kind or priority than its own', m.id) FROM (
  SELECT message_id, kind_id, priority FROM ready UNION ALL SELECT message_id, kind_id, priority FROM delayed
  UNION ALL SELECT message_id, kind_id, priority FROM parked UNION ALL SELECT message_id, kind_id, priority FROM lease
) AS w JOIN message AS m ON m.id = w.message_id
WHERE (w.kind_id, w.priority) <> (m.kind_id, m.priority) LIMIT 20;

-- name: check_reasons
-- A dead letter says why.
SELECT format('message %s is a dead letter without a reason', message_id) FROM done
WHERE state = 'dead_letter' AND coalesce(reason, '') = '' LIMIT 20;

-- name: check_fences
-- No attempt is newer than the last lease of its message.
SELECT format('message %s has an attempt with fence %s after its last lease', a.message_id, max(a.fence))
FROM attempt AS a JOIN standing AS s ON s.message_id = a.message_id
WHERE a.fence > s.fence GROUP BY a.message_id LIMIT 20;

-- name: check_counters
-- Attempts that count are runs; a run has a lease.
SELECT format('message %s counts %s attempts of %s runs with fence %s', message_id, attempts, runs, fence) FROM standing
WHERE attempts > runs OR runs > fence OR attempts < 0 LIMIT 20;

-- name: check_attempts
-- Each run that has ended is written down.
SELECT format('message %s has run %s times, of which %s are written down', s.message_id, s.runs, count(a.fence)) FROM (
  SELECT message_id, runs - (state = 'running')::int AS runs FROM standing
) AS s LEFT JOIN attempt AS a ON a.message_id = s.message_id
WHERE s.runs > 0 GROUP BY s.message_id, s.runs HAVING count(a.fence) < s.runs LIMIT 20;

-- name: check_unique
-- A unique key belongs to a message that lives.
SELECT format('the unique key %s belongs to message %s, which has ended', u.key, u.message_id)
FROM unique_key AS u JOIN done AS d ON d.message_id = u.message_id LIMIT 20;

-- name: check_locks
-- A lock belongs to a run that there is or was: the locks of those that have ended lie there until housekeeping comes.
SELECT format('nobody has the lock %s (of message %s, fence %s): start the cluster, which drops it', k.key, k.message_id, k.fence)
FROM lock AS k LEFT JOIN standing AS s ON s.message_id = k.message_id
WHERE s.fence IS NULL OR k.fence > s.fence LIMIT 20;

-- name: old_snapshots
-- Nobody keeps what was claimed long ago from being vacuumed: it lies in the way of every claim.
SELECT format('process %%s (%%s of %%s%%s) has been in a transaction for %%s s, so that nothing is vacuumed: end it',
              a.pid, coalesce(nullif(a.application_name, ''), 'a client'), a.usename,
              coalesce(' at ' || host(a.client_addr), ''), extract(epoch FROM clock_timestamp() - a.xact_start)::bigint)
FROM pg_stat_activity AS a
WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
  AND a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
UNION ALL
SELECT format('the prepared transaction %%s has been open since %%s, so that nothing is vacuumed: end it', gid, prepared)
FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
UNION ALL
SELECT format('the replication slot %%s holds back what may be vacuumed by %%s transactions: drop it or let it go on',
              slot_name, greatest(age(xmin), age(catalog_xmin)))
FROM pg_replication_slots WHERE greatest(age(xmin), age(catalog_xmin)) > 1000000;
