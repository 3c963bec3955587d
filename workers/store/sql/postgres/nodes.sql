-- name: clock
-- Milliseconds of UTC.
SELECT clock_ms();

-- name: register
-- A dispatcher begins: a new node, or the next generation of one.
INSERT INTO node (name, instance, generation, until) VALUES (%(name)s, %(instance)s, 1, %(until)s)
ON CONFLICT (name, instance) DO UPDATE SET generation = node.generation + 1, until = excluded.until, lost = false
RETURNING id, generation, EXISTS (
  SELECT 1 FROM node AS other
  WHERE other.name = %(name)s AND other.instance <> %(instance)s AND NOT other.lost AND other.until >= clock_ms()
);

-- name: enlist
-- An executor is there, or there again.
INSERT INTO executor (node, slot, pid, start, enlisted) VALUES (%(node)s, %(slot)s, %(pid)s, %(start)s, %(now)s)
ON CONFLICT (node, slot, pid, start) DO UPDATE SET enlisted = excluded.enlisted
RETURNING id;

-- name: forget_handlers
-- A node says anew what it can run.
DELETE FROM handler WHERE node = %(node)s;

-- name: add_handlers
-- A node can run these kinds.
INSERT INTO handler (node, kind_id)
SELECT %(node)s, id FROM kind WHERE name = ANY (%(names)s::text[]) ON CONFLICT DO NOTHING;

-- name: set_policies
-- The newest policy of a kind counts, its limit as long as no operator has set one.
UPDATE kind AS k SET policy = g.policy, max_running = CASE WHEN k.said THEN k.max_running ELSE g.max_running END
FROM unnest(%(names)s::text[], %(policies)s::text[], %(limits)s::int[]) AS g (name, policy, max_running)
WHERE k.name = g.name;

-- name: policies
-- The policies that were declared.
SELECT name, policy FROM kind WHERE policy <> '' ORDER BY name;

-- name: guard_leases
-- Nobody claims until this transaction ends.
LOCK TABLE lease IN SHARE ROW EXCLUSIVE MODE;

-- name: count_limited
-- What runs of kinds with a limit is counted from now on.
UPDATE lease AS l SET limited = k.max_running > 0 FROM kind AS k
WHERE k.id = l.kind_id AND l.limited IS DISTINCT FROM (k.max_running > 0);

-- name: limits
-- How many of each of these kinds may run.
SELECT name, max_running FROM kind WHERE name = ANY (%(names)s::text[]) AND NOT said;

-- name: control_kind
-- An operator pauses, resumes or limits a kind.
UPDATE kind SET said = true, paused = %(paused)s, max_running = %(limit)s, by = %(by)s, at = %(at)s, reason = %(reason)s
WHERE name = %(name)s;

-- name: controls
-- What operators have said.
SELECT name, paused, max_running, by, at, reason FROM kind WHERE said ORDER BY name;

-- name: renew_node
-- A node lives on, unless it was declared dead; how many others live.
WITH renewed AS (
  UPDATE node SET until = least(%(until)s, clock_ms() + 600000) WHERE id = %(node)s AND NOT lost RETURNING id
)
SELECT (SELECT count(*) FROM renewed),
       (SELECT count(*) FROM node WHERE id <> %(node)s AND NOT lost AND until >= %(now)s);

-- name: cancels
-- Runs of a node that an operator wants ended.
SELECT message_id, fence FROM lease WHERE node = %(node)s AND cancel;

-- name: leases
-- What a node holds.
SELECT l.message_id, l.fence, k.name, l.holder, coalesce(e.slot, ''), coalesce(e.pid, 0), coalesce(e.start, 0), n.name,
       l.runs, l.attempts, l.crashes, l.locks, l.polls, l.auths, l.stage, m.max_attempts, l.leased, l.began,
       coalesce(m.notify, '')
FROM lease AS l
JOIN message AS m ON m.id = l.message_id
JOIN kind AS k ON k.id = l.kind_id
JOIN node AS n ON n.id = l.node
LEFT JOIN executor AS e ON e.id = l.holder
WHERE l.node = %(node)s
ORDER BY l.message_id;

-- name: lose_nodes
-- Nodes that were not renewed in time are dead from now on; nobody's clock runs ahead of the database's here.
UPDATE node SET lost = true WHERE until < least(%(now)s, clock_ms()) AND NOT lost;

-- name: lost_nodes
-- The dead ones.
SELECT id, generation FROM node WHERE lost ORDER BY id;

-- name: orphans
-- What dead nodes hold; looks through everything that runs.
SELECT l.message_id, l.fence, k.name, l.holder, coalesce(e.slot, ''), coalesce(e.pid, 0), coalesce(e.start, 0), n.name,
       l.runs, l.attempts, l.crashes, l.locks, l.polls, l.auths, l.stage, m.max_attempts, l.leased, l.began,
       coalesce(m.notify, '')
FROM node AS n
JOIN lease AS l ON l.node = n.id
JOIN message AS m ON m.id = l.message_id
JOIN kind AS k ON k.id = l.kind_id
LEFT JOIN executor AS e ON e.id = l.holder
WHERE n.lost
ORDER BY l.message_id
LIMIT %(limit)s;

-- name: leave
-- A node ends in order: what it may have left is an orphan from now on.
UPDATE node SET lost = true WHERE id = %(node)s;
