-- name: rows
-- Messages as operators see them; a condition follows.
SELECT m.id, m.guid, k.name,
       CASE WHEN l.message_id IS NOT NULL THEN 'running' ELSE coalesce(d.state, p.state, e.state, r.state, '') END,
       coalesce(l.stage, d.stage, p.stage, e.stage, r.stage, 0),
       m.priority, m.created, m.due,
       coalesce(l.runs, d.runs, p.runs, e.runs, r.runs, 0),
       coalesce(l.attempts, d.attempts, p.attempts, e.attempts, r.attempts, 0),
       coalesce(l.crashes, d.crashes, p.crashes, e.crashes, r.crashes, 0),
       coalesce(l.locks, d.locks, p.locks, e.locks, r.locks, 0),
       coalesce(l.polls, d.polls, p.polls, e.polls, r.polls, 0),
       coalesce(l.auths, d.auths, p.auths, e.auths, r.auths, 0),
       m.max_attempts, m.args, m.key, m.unique_key, coalesce(d.reason, p.reason, e.reason, ''),
       coalesce(d.finished, 0), coalesce(d.result, x''),
       coalesce(x.slot || '@' || substr(n.name, 1, instr(n.name || '/', '/') - 1), ''), coalesce(x.pid, 0), coalesce(l.leased, 0), coalesce(l.progress, x''),
       m.payload_size, m.deadline, m.tracking_id, m.parent_id, m.sender, m.notify, coalesce(l.cancel > 0, 0),
       coalesce(a.fault, ''), coalesce(a.text, '')
FROM message AS m
JOIN kind AS k ON k.id = m.kind_id
LEFT JOIN lease AS l ON l.message_id = m.id
LEFT JOIN done AS d ON d.message_id = m.id
LEFT JOIN parked AS p ON p.message_id = m.id
LEFT JOIN delayed AS e ON e.kind_id = m.kind_id AND e.due = m.due AND e.message_id = m.id
LEFT JOIN ready AS r
  ON r.kind_id = m.kind_id AND r.priority = m.priority AND r.due = m.due AND r.message_id = m.id
LEFT JOIN attempt AS a
  ON a.message_id = m.id AND a.fence = (SELECT max(fence) FROM attempt WHERE message_id = m.id)
LEFT JOIN executor AS x ON x.id = l.holder
LEFT JOIN node AS n ON n.id = l.node;

-- name: count_rows
-- How many messages there are; a condition follows.
SELECT count(*)
FROM message AS m
LEFT JOIN lease AS l ON l.message_id = m.id
LEFT JOIN done AS d ON d.message_id = m.id
LEFT JOIN parked AS p ON p.message_id = m.id
LEFT JOIN delayed AS e ON e.kind_id = m.kind_id AND e.due = m.due AND e.message_id = m.id
LEFT JOIN ready AS r
  ON r.kind_id = m.kind_id AND r.priority = m.priority AND r.due = m.due AND r.message_id = m.id
LEFT JOIN attempt AS a
  ON a.message_id = m.id AND a.fence = (SELECT max(fence) FROM attempt WHERE message_id = m.id);

-- name: named
-- Part of a condition: the messages that were named.
SELECT value FROM json_each(:ids)
UNION ALL SELECT g.id FROM message AS g JOIN json_each(:guids) AS asked ON g.guid = asked.value;

-- name: in_ready
-- Part of a condition: those that may run.
SELECT message_id FROM ready
WHERE kind_id IN (SELECT value FROM json_each(:kinds)) AND state IN (SELECT value FROM json_each(:states));

-- name: in_delayed
-- Part of a condition: those that wait for their time.
SELECT message_id FROM delayed
WHERE kind_id IN (SELECT value FROM json_each(:kinds)) AND state IN (SELECT value FROM json_each(:states));

-- name: in_parked
-- Part of a condition: those that wait for something else.
SELECT message_id FROM parked WHERE kind_id IN (SELECT value FROM json_each(:kinds));

-- name: in_lease
-- Part of a condition: those that run.
SELECT message_id FROM lease WHERE kind_id IN (SELECT value FROM json_each(:kinds));

-- name: in_done
-- Part of a condition: those that have ended.
SELECT message_id FROM done
WHERE kind_id IN (SELECT value FROM json_each(:kinds)) AND state IN (SELECT value FROM json_each(:states));

-- name: attempts
-- Every run of a message.
SELECT message_id, fence, number, stage, worker, pid, started, ended, result, fault, code, text, stack, late
FROM attempt WHERE message_id = ? ORDER BY fence;

-- name: deeds
-- What operators did with a message.
SELECT at, actor, verb, detail FROM deed WHERE message_id = ? ORDER BY id;

-- name: outputs_of
-- What the finished stages of a message came to.
SELECT body FROM output WHERE message_id = ? ORDER BY stage;

-- name: notices
-- Whom was told what of a message.
SELECT addressee, subject FROM notification WHERE message_id = ? ORDER BY id;

-- name: locks_held
-- The locks a message has.
SELECT k.key FROM lock AS k JOIN lease AS l ON l.message_id = k.message_id AND l.fence = k.fence
WHERE k.message_id = ? ORDER BY k.key;

-- name: tallies
-- How many messages of each kind are in each state.
SELECT kind_id, state, count(*) FROM ready GROUP BY kind_id, state
UNION ALL SELECT kind_id, state, count(*) FROM delayed GROUP BY kind_id, state
UNION ALL SELECT kind_id, state, count(*) FROM parked GROUP BY kind_id, state
UNION ALL SELECT kind_id, 'running', count(*) FROM lease GROUP BY kind_id
UNION ALL SELECT kind_id, state, count(*) FROM done GROUP BY kind_id, state;

-- name: oldest_due
-- Since when the message of each kind has been due that has been so longest.
SELECT kind_id, min(due) FROM (
  SELECT kind_id, min(due) AS due FROM ready GROUP BY kind_id
  UNION ALL SELECT kind_id, min(due) FROM delayed WHERE due <= :now GROUP BY kind_id
) GROUP BY kind_id;

-- name: handled
-- Kinds some living host has a handler for.
SELECT DISTINCT h.kind_id FROM handler AS h JOIN node AS n ON n.id = h.node WHERE NOT n.lost AND n.until >= ?;
