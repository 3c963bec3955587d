-- name: register_node
-- A dispatcher begins: a new node, or the next generation of one.
INSERT INTO node (name, generation, until) VALUES (?, 1, ?)
ON CONFLICT (name) DO UPDATE SET generation = generation + 1, until = excluded.until, lost = 0;

-- name: node_named
-- Number and generation of a node.
SELECT id, generation FROM node WHERE name = ?;

-- name: enlist
-- An executor is there, or there again.
INSERT INTO executor (node, slot, pid, start, enlisted) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (node, slot, pid, start) DO UPDATE SET enlisted = excluded.enlisted;

-- name: executor
-- The number of an executor.
SELECT id FROM executor WHERE node = ? AND slot = ? AND pid = ? AND start = ?;

-- name: renew_node
-- A node lives on, unless it was declared dead.
UPDATE node SET until = ? WHERE id = ? AND NOT lost;

-- name: node_alive
-- A row if the node may hold leases.
SELECT 1 FROM node WHERE id = ? AND NOT lost;

-- name: cancels
-- Runs of a node that an operator wants ended.
SELECT message_id, fence FROM lease WHERE node = ? AND cancel > 0;

-- name: leave_node
-- A node ends in order.
UPDATE node SET until = 0, lost = 1 WHERE id = ?;

-- name: lose_nodes
-- Nodes that were not renewed in time are dead from now on.
UPDATE node SET lost = 1 WHERE until < ? AND NOT lost;

-- name: leases
-- What a node holds.
SELECT l.message_id, l.fence, k.name, l.holder, coalesce(e.slot, ''), coalesce(e.pid, 0), coalesce(e.start, 0), n.name,
       l.runs, l.attempts, l.crashes, l.locks, l.polls, l.auths, l.stage, m.max_attempts, l.leased, l.began > 0, m.notify
FROM lease l
JOIN message m ON m.id = l.message_id
JOIN kind k ON k.id = l.kind_id
JOIN node n ON n.id = l.node
LEFT JOIN executor e ON e.id = l.holder
WHERE l.node = ?
ORDER BY l.message_id;

-- name: orphans
-- What dead nodes hold.
SELECT l.message_id, l.fence, k.name, l.holder, coalesce(e.slot, ''), coalesce(e.pid, 0), coalesce(e.start, 0), n.name,
       l.runs, l.attempts, l.crashes, l.locks, l.polls, l.auths, l.stage, m.max_attempts, l.leased, l.began > 0, m.notify
FROM lease l
JOIN node n ON n.id = l.node AND n.lost
JOIN message m ON m.id = l.message_id
JOIN kind k ON k.id = l.kind_id
LEFT JOIN executor e ON e.id = l.holder
ORDER BY l.message_id
LIMIT ?;

-- name: sweep_executors
-- Executors whose slot has had another one since, and which hold nothing.
DELETE FROM executor
WHERE enlisted < ? AND id NOT IN (SELECT max(id) FROM executor GROUP BY node, slot)
  AND id NOT IN (SELECT holder FROM lease);
