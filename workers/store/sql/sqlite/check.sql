-- name: check_places
-- A message is in one place, exactly.
SELECT format('message %d is in %d places', m.id, p.places) FROM (
  SELECT message_id, count(*) AS places FROM (
    SELECT message_id FROM ready UNION ALL SELECT message_id FROM delayed UNION ALL SELECT message_id FROM parked
    UNION ALL SELECT message_id FROM lease UNION ALL SELECT message_id FROM done
  ) GROUP BY message_id HAVING places > 1
) AS p JOIN message AS m ON m.id = p.message_id LIMIT 20;

-- name: check_nowhere
-- No message is in no place.
SELECT format('message %d is in no place', id) FROM message WHERE id NOT IN (
  SELECT message_id FROM ready UNION ALL SELECT message_id FROM delayed UNION ALL SELECT message_id FROM parked
  UNION ALL SELECT message_id FROM lease UNION ALL SELECT message_id FROM done
) LIMIT 20;

-- name: check_strays
-- What belongs to a message has one.
SELECT format('%s has message %d, which is not there', place, message_id) FROM (
  SELECT 'ready' AS place, message_id FROM ready UNION ALL SELECT 'delayed', message_id FROM delayed
  UNION ALL SELECT 'parked', message_id FROM parked UNION ALL SELECT 'lease', message_id FROM lease
  UNION ALL SELECT 'done', message_id FROM done UNION ALL SELECT 'attempt', message_id FROM attempt
  UNION ALL SELECT 'output', message_id FROM output UNION ALL SELECT 'payload', message_id FROM payload
  UNION ALL SELECT 'idempotency', message_id FROM idempotency UNION ALL SELECT 'unique_key', message_id FROM unique_key
  UNION ALL SELECT 'unique_key', next FROM unique_key WHERE next
) WHERE message_id NOT IN (SELECT id FROM message) LIMIT 20;

-- name: check_whereabouts
-- A waiting row stands where the message says.
SELECT format('message %d waits under another time, priority or kind than its own', m.id) FROM (
  SELECT message_id, kind_id, priority, due FROM ready UNION ALL SELECT message_id, kind_id, priority, due FROM delayed
) AS w JOIN message AS m ON m.id = w.message_id
WHERE (w.kind_id, w.priority, w.due) <> (m.kind_id, m.priority, m.due) LIMIT 20;

-- name: check_reasons
-- A dead letter says why.
SELECT format('message %d is a dead letter without a reason', message_id) FROM done
WHERE state = 'dead_letter' AND reason = '' LIMIT 20;

-- name: check_fences
-- No attempt is newer than the last lease of its message.
SELECT format('message %d has an attempt with fence %d after its last lease', a.message_id, max(a.fence))
FROM attempt AS a JOIN (
  SELECT message_id, fence FROM ready UNION ALL SELECT message_id, fence FROM delayed
  UNION ALL SELECT message_id, fence FROM parked UNION ALL SELECT message_id, fence FROM lease
  UNION ALL SELECT message_id, fence FROM done
) AS p ON p.message_id = a.message_id
WHERE a.fence > p.fence GROUP BY a.message_id LIMIT 20;

-- name: check_counters
-- Attempts that count are runs; what was tried is written down at most once for each lease.
SELECT format('message %d counts %d attempts of %d runs with fence %d', message_id, attempts, runs, fence) FROM (
  SELECT message_id, attempts, runs, fence FROM ready UNION ALL SELECT message_id, attempts, runs, fence FROM delayed
  UNION ALL SELECT message_id, attempts, runs, fence FROM parked UNION ALL SELECT message_id, attempts, runs, fence
  FROM lease UNION ALL SELECT message_id, attempts, runs, fence FROM done
) WHERE attempts > runs OR runs > fence OR attempts < 0 LIMIT 20;

-- name: check_attempts
-- Each run that has ended is written down.
SELECT format('message %d has run %d times, of which %d are written down', p.message_id, p.runs, count(a.fence)) FROM (
  SELECT message_id, runs FROM ready UNION ALL SELECT message_id, runs FROM delayed
  UNION ALL SELECT message_id, runs FROM parked UNION ALL SELECT message_id, runs FROM done
  UNION ALL SELECT message_id, runs - 1 FROM lease
) AS p LEFT JOIN attempt AS a ON a.message_id = p.message_id
WHERE p.runs > 0 GROUP BY p.message_id, p.runs HAVING count(a.fence) < p.runs LIMIT 20;

-- name: check_unique
-- A unique key belongs to a message that lives.
SELECT format('the unique key %s belongs to message %d, which has ended', u.key, u.message_id)
FROM unique_key AS u JOIN done AS d ON d.message_id = u.message_id LIMIT 20;

-- name: check_locks
-- A lock belongs to a run.
SELECT format('nobody has the lock %s (of message %d, fence %d): start the cluster, which drops it', key, message_id, fence)
FROM lock AS k WHERE NOT EXISTS (
  SELECT 1 FROM lease AS l WHERE l.message_id = k.message_id AND l.fence = k.fence
) LIMIT 20;

-- name: check_integrity
-- What SQLite says of the file.
SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok' LIMIT 20;
