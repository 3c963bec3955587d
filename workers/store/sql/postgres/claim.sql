-- name: lock_kinds
-- Claims of kinds with a limit happen one after the other, over all hosts, so that what runs can be counted.
SELECT id FROM kind WHERE id = ANY (%(kinds)s::int[]) AND max_running > 0 ORDER BY id FOR NO KEY UPDATE;

-- name: promote
-- Delayed messages that have become due may run; how many, since when the oldest is due, and when the next one is.
WITH due AS MATERIALIZED (
  SELECT d.place
  FROM unnest(%(kinds)s::int[], %(marks)s::bigint[]) AS k (id, mark)
  CROSS JOIN LATERAL (
    SELECT ctid AS place FROM delayed
    WHERE kind_id = k.id AND due >= k.mark AND due <= %(now)s
    ORDER BY due, message_id LIMIT %(most)s FOR UPDATE SKIP LOCKED
  ) AS d
), moved AS (
  DELETE FROM delayed WHERE ctid = ANY (ARRAY (SELECT place FROM due)) RETURNING *
), put AS (
  INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state FROM moved
)
SELECT (SELECT count(*) FROM moved), (SELECT coalesce(min(due), 0) FROM moved), (
  SELECT coalesce(min(n.due), 0) FROM unnest(%(kinds)s::int[]) AS k (id)
  CROSS JOIN LATERAL (
    SELECT due FROM delayed WHERE kind_id = k.id AND due > %(now)s ORDER BY due LIMIT 1
  ) AS n
);

-- name: claim
-- The next messages of some kinds, for a node: from ready to lease, with all that a run needs. Known levels of priority
-- are looked at from where their living rows begin, others are found by a step into the index for each; what each
-- level gives is decided by merging their heads; rows that another claim has are passed over.
WITH RECURSIVE allowed AS MATERIALIZED (
  SELECT k.id, k.max_running > 0 AS limited, CASE WHEN k.max_running = 0 THEN %(want)s::bigint ELSE
    least(%(want)s, k.max_running - (SELECT count(*) FROM lease AS l WHERE l.kind_id = k.id AND l.limited)) END AS room
  FROM kind AS k
  WHERE k.id = ANY (%(kinds)s::int[]) AND NOT k.paused
    AND EXISTS (SELECT 1 FROM node AS n WHERE n.id = %(node)s AND NOT n.lost)
), known AS MATERIALIZED (
  SELECT a.id AS kind_id, a.room, a.limited, g.priority, g.due,
         coalesce(lead(g.priority) OVER (PARTITION BY a.id ORDER BY g.priority), 2147483647) AS below
  FROM unnest(%(mark_kinds)s::int[], %(mark_priorities)s::int[], %(mark_dues)s::bigint[]) AS g (kind_id, priority, due)
  JOIN allowed AS a ON a.id = g.kind_id AND a.room > 0
), fresh AS (
  SELECT kind_id, room, limited, below, (
    SELECT r.priority FROM ready AS r
    WHERE r.kind_id = g.kind_id AND r.priority > g.priority AND r.priority < g.below ORDER BY r.priority LIMIT 1
  ) AS priority FROM known AS g
  UNION ALL
  SELECT kind_id, room, limited, below, (
    SELECT r.priority FROM ready AS r
    WHERE r.kind_id = g.kind_id AND r.priority > g.priority AND r.priority < g.below ORDER BY r.priority LIMIT 1
  ) FROM fresh AS g WHERE g.priority IS NOT NULL
), level AS MATERIALIZED (
  SELECT kind_id, room, limited, priority, due FROM known WHERE due >= 0
  UNION ALL
  SELECT kind_id, room, limited, priority, 0 FROM fresh WHERE priority IS NOT NULL
), ranked AS (
  SELECT v.kind_id, v.priority, v.due AS mark, v.room, c.due, c.message_id,
         CASE WHEN %(aged)s THEN 0 ELSE v.priority END AS rank,
         row_number() OVER (PARTITION BY v.kind_id
                            ORDER BY CASE WHEN %(aged)s THEN 0 ELSE v.priority END, c.due, c.message_id) AS nth
  FROM level AS v CROSS JOIN LATERAL (
    SELECT r.due, r.message_id FROM ready AS r
    WHERE r.kind_id = v.kind_id AND r.priority = v.priority AND r.due >= v.due
    ORDER BY r.due, r.message_id LIMIT v.room
  ) AS c
  WHERE (SELECT count(*) FROM level) > 1
), chosen AS (
  SELECT kind_id, priority, mark FROM ranked WHERE nth <= room ORDER BY rank, due, message_id LIMIT %(want)s
), quota AS MATERIALIZED (
  SELECT kind_id, priority, mark, count(*) AS many, count(*) AS offered FROM chosen GROUP BY kind_id, priority, mark
  UNION ALL
  SELECT kind_id, priority, due, room, 0 FROM level WHERE (SELECT count(*) FROM level) = 1
), picked AS MATERIALIZED (
  SELECT p.place FROM quota AS q CROSS JOIN LATERAL (
    SELECT r.ctid AS place FROM ready AS r
    WHERE r.kind_id = q.kind_id AND r.priority = q.priority AND r.due >= q.mark
    ORDER BY r.due, r.message_id LIMIT q.many FOR UPDATE SKIP LOCKED
  ) AS p
), taken AS (
  DELETE FROM ready WHERE ctid = ANY (ARRAY (SELECT place FROM picked)) RETURNING *
), placed AS MATERIALIZED (
  SELECT t.*, row_number() OVER (ORDER BY CASE WHEN %(aged)s THEN 0 ELSE t.priority END, t.due, t.message_id) AS nth
  FROM taken AS t
), leased AS (
  INSERT INTO lease (message_id, fence, leased, due, kind_id, priority, node, holder, runs, attempts, crashes, locks,
                     polls, auths, stage, limited)
  SELECT message_id, fence + 1, %(now)s, due, kind_id, priority, %(node)s, (%(holders)s::int[])[nth], runs + 1,
         attempts + 1, crashes, locks, polls, auths, stage, kind_id = ANY (ARRAY (SELECT id FROM allowed WHERE limited))
  FROM placed
)
SELECT p.message_id, p.fence + 1, p.kind_id, m.args, p.runs + 1, p.attempts + 1, p.crashes, p.locks, p.polls, p.auths,
       m.guid, p.stage,
       CASE WHEN p.stage > 0 THEN ARRAY (SELECT o.body FROM output AS o WHERE o.message_id = p.message_id ORDER BY o.stage) END,
       p.priority, m.created, p.due, m.deadline, coalesce(m.key, ''), m.max_attempts, coalesce(m.notify, ''),
       m.payload_size, coalesce(m.tracking_id, ''), coalesce(m.parent_id, 0), coalesce(m.sender, ''),
       (%(holders)s::int[])[p.nth], (SELECT sum(offered) FROM quota)::bigint, m.unique_key IS NOT NULL
FROM placed AS p JOIN message AS m ON m.id = p.message_id
ORDER BY p.nth;

-- name: claim_kind
-- As `claim`, for one kind in order of priority, when one level of it at most is known: a scan from where that begins, or
-- from the head if anything goes before it.
WITH allowed AS MATERIALIZED (
  SELECT k.max_running > 0 AS limited, CASE WHEN k.max_running = 0 THEN %(want)s::bigint ELSE greatest(0,
    least(%(want)s, k.max_running - (SELECT count(*) FROM lease AS l WHERE l.kind_id = k.id AND l.limited))) END AS room
  FROM kind AS k
  WHERE k.id = %(kind)s AND NOT k.paused
    AND EXISTS (SELECT 1 FROM node AS n WHERE n.id = %(node)s AND NOT n.lost)
), head AS MATERIALIZED (
  SELECT EXISTS (SELECT 1 FROM ready AS r WHERE r.kind_id = %(kind)s AND r.priority < %(priority)s::int) AS first
), picked AS MATERIALIZED (
  SELECT r.ctid AS place FROM ready AS r
  WHERE r.kind_id = %(kind)s AND (r.priority, r.due) >= (
    (SELECT CASE WHEN first THEN -2147483648 ELSE %(priority)s::int END FROM head),
    (SELECT CASE WHEN first THEN 0 ELSE %(due)s::bigint END FROM head))
  ORDER BY r.priority, r.due, r.message_id LIMIT coalesce((SELECT room FROM allowed), 0) FOR UPDATE SKIP LOCKED
), taken AS (
  DELETE FROM ready WHERE ctid = ANY (ARRAY (SELECT place FROM picked)) RETURNING *
), placed AS MATERIALIZED (
  SELECT t.*, row_number() OVER (ORDER BY t.priority, t.due, t.message_id) AS nth
  FROM taken AS t
), leased AS (
  INSERT INTO lease (message_id, fence, leased, due, kind_id, priority, node, holder, runs, attempts, crashes, locks,
                     polls, auths, stage, limited)
  SELECT message_id, fence + 1, %(now)s, due, kind_id, priority, %(node)s, (%(holders)s::int[])[nth], runs + 1,
         attempts + 1, crashes, locks, polls, auths, stage, (SELECT limited FROM allowed)
  FROM placed
)
SELECT p.message_id, p.fence + 1, p.kind_id, m.args, p.runs + 1, p.attempts + 1, p.crashes, p.locks, p.polls, p.auths,
       m.guid, p.stage,
       CASE WHEN p.stage > 0 THEN ARRAY (SELECT o.body FROM output AS o WHERE o.message_id = p.message_id ORDER BY o.stage) END,
       p.priority, m.created, p.due, m.deadline, coalesce(m.key, ''), m.max_attempts, coalesce(m.notify, ''),
       m.payload_size, coalesce(m.tracking_id, ''), coalesce(m.parent_id, 0), coalesce(m.sender, ''),
       (%(holders)s::int[])[p.nth], 0, m.unique_key IS NOT NULL
FROM placed AS p JOIN message AS m ON m.id = p.message_id
ORDER BY p.nth;
