-- name: rows
-- Messages as operators see them; conditions follow.
SELECT m.id, m.guid, k.name, s.state::text, s.stage, m.priority, m.created, s.due,
       s.runs, s.attempts, s.crashes, s.locks, s.polls, s.auths, m.max_attempts, m.args, coalesce(m.key, ''),
       coalesce(m.unique_key, ''), coalesce(s.reason, ''), s.finished, coalesce(s.result, ''),
       coalesce(x.slot || '@' || split_part(n.name, '/', 1), ''), coalesce(x.pid, 0), s.leased, coalesce(s.progress, ''), m.payload_size,
       m.deadline, coalesce(m.tracking_id, ''), coalesce(m.parent_id, 0), coalesce(m.sender, ''), coalesce(m.notify, ''),
       s.cancel, coalesce(a.fault, ''), coalesce(a.text, '')
FROM message AS m
JOIN standing AS s ON s.message_id = m.id
JOIN kind AS k ON k.id = m.kind_id
LEFT JOIN LATERAL (
  SELECT t.fault, t.text FROM attempt AS t WHERE t.message_id = m.id ORDER BY t.fence DESC LIMIT 1
) AS a ON true
LEFT JOIN executor AS x ON x.id = s.holder
LEFT JOIN node AS n ON n.id = x.node
WHERE true;

-- name: count_rows
-- How many messages there are; conditions follow.
SELECT count(*)
FROM message AS m
JOIN standing AS s ON s.message_id = m.id
JOIN kind AS k ON k.id = m.kind_id
LEFT JOIN LATERAL (
  SELECT t.fault FROM attempt AS t WHERE t.message_id = m.id ORDER BY t.fence DESC LIMIT 1
) AS a ON true
WHERE true;

-- name: attempts
-- Every run of a message.
SELECT message_id, fence, number, stage, worker, pid, started, ended, result, coalesce(fault, ''), coalesce(code, ''),
       coalesce(text, ''), coalesce(stack, ''), coalesce(late, '')
FROM attempt WHERE message_id = %(id)s ORDER BY fence;

-- name: deeds
-- What operators did with a message.
SELECT at, actor, verb, detail FROM deed WHERE message_id = %(id)s ORDER BY id;

-- name: outputs
-- What the finished stages of a message came to.
SELECT body FROM output WHERE message_id = %(id)s ORDER BY stage;

-- name: notices
-- Whom was told what of a message.
SELECT addressee, subject FROM notification WHERE message_id = %(id)s ORDER BY id;

-- name: locks
-- The locks a message has.
SELECT k.key FROM lock AS k JOIN lease AS l ON l.message_id = k.message_id AND l.fence = k.fence
WHERE k.message_id = %(id)s ORDER BY k.key;

-- name: kinds
-- All kinds, with what operators have said of them.
SELECT id, name, paused, max_running, policy FROM kind ORDER BY name;

-- name: tallies
-- How many messages of each kind are in each state.
SELECT kind_id, state::text, count(*) FROM ready GROUP BY kind_id, state
UNION ALL SELECT kind_id, state::text, count(*) FROM delayed GROUP BY kind_id, state
UNION ALL SELECT kind_id, state::text, count(*) FROM parked GROUP BY kind_id, state
UNION ALL SELECT kind_id, 'running', count(*) FROM lease GROUP BY kind_id
UNION ALL SELECT kind_id, state::text, count(*) FROM done GROUP BY kind_id, state;

-- name: oldest_due
-- Since when the message of each kind has been due that has been so longest.
SELECT kind_id, min(due) FROM (
  SELECT kind_id, min(due) AS due FROM ready GROUP BY kind_id
  UNION ALL SELECT kind_id, min(due) FROM delayed WHERE due <= %(now)s GROUP BY kind_id
) AS g GROUP BY kind_id;

-- name: handled
-- Kinds some living host has a handler for.
SELECT DISTINCT h.kind_id FROM handler AS h JOIN node AS n ON n.id = h.node WHERE NOT n.lost AND n.until >= %(now)s;
