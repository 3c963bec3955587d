-- name: kinds_named
-- Numbers of kinds.
SELECT name, id FROM kind WHERE name = ANY (%(names)s::text[]);

-- name: add_kinds
-- Kinds that were never seen get their numbers.
INSERT INTO kind (name) SELECT g FROM unnest(%(names)s::text[]) AS g ORDER BY g ON CONFLICT (name) DO NOTHING;

-- name: store_due
-- New messages that are due and have neither keys nor anything unusual, in their order; as `store`, planned in less time.
WITH given AS MATERIALIZED (
  SELECT nextval('message_id') AS id, s.*
  FROM (SELECT * FROM unnest(
    %(kind_id)s::int[], %(args)s::bytea[], %(priority)s::int[], %(due)s::bigint[], %(guid)s::text[],
    %(max_attempts)s::int[], %(notify)s::text[]
  ) WITH ORDINALITY AS g (kind_id, args, priority, due, guid, max_attempts, notify, nth) ORDER BY nth) AS s
), stored AS (
  INSERT INTO message (id, created, kind_id, priority, payload_size, max_attempts, deadline, guid, args, notify)
  SELECT id, %(now)s, kind_id, priority, 0, coalesce(max_attempts, 0), 0, guid, args, nullif(notify, '') FROM given
), now_due AS (
  INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT id, due, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued' FROM given
)
SELECT id FROM given ORDER BY id;

-- name: store
-- New messages without keys, in their order; a guid that is there already refuses all of them.
WITH given AS MATERIALIZED (
  SELECT nextval('message_id') AS id, s.*
  FROM (SELECT * FROM unnest(
    %(kind_id)s::int[], %(args)s::bytea[], %(priority)s::int[], %(due)s::bigint[], %(guid)s::text[],
    %(payload)s::bytea[], %(max_attempts)s::int[], %(deadline)s::bigint[], %(on_deadline)s::text[], %(notify)s::text[],
    %(routing)s::text[]
  ) WITH ORDINALITY AS g (kind_id, args, priority, due, guid, payload, max_attempts, deadline, on_deadline, notify,
                          routing, nth) ORDER BY nth) AS s
), stored AS (
  INSERT INTO message (id, created, kind_id, priority, payload_size, max_attempts, deadline, guid, args, notify, on_deadline)
  SELECT id, %(now)s, kind_id, priority, 0, coalesce(max_attempts, 0), 0, guid, args, nullif(notify, ''), NULL
  FROM given WHERE routing IS NULL AND payload IS NULL AND deadline IS NULL
), routed AS (
  INSERT INTO message (id, created, kind_id, priority, payload_size, max_attempts, deadline, guid, args, notify, on_deadline,
      parent_id, direction, destination, sender, sender_adapter, tenant, created_by, tracking_id, request_id, response_id,
      reply_to, refs, content_type, options)
  SELECT g.id, %(now)s, g.kind_id, g.priority, coalesce(octet_length(g.payload), 0), coalesce(g.max_attempts, 0),
      coalesce(g.deadline, 0), g.guid, g.args, nullif(g.notify, ''), nullif(g.on_deadline, 'expire'),
      nullif(r.parent_id, 0), nullif(r.direction, 'task'), nullif(r.destination, ''), nullif(r.sender, ''),
      nullif(r.sender_adapter, ''), nullif(r.tenant, ''), nullif(r.created_by, ''), nullif(r.tracking_id, ''),
      nullif(r.request_id, ''), nullif(r.response_id, ''), nullif(r.reply_to, ''), nullif(r.refs, ''),
      nullif(r.content_type, ''), nullif(r.options, '')
  FROM given AS g CROSS JOIN LATERAL jsonb_to_record(coalesce(nullif(g.routing, ''), '{}')::jsonb) AS r (
      parent_id bigint, direction text, destination text, sender text, sender_adapter text, tenant text, created_by text,
      tracking_id text, request_id text, response_id text, reply_to text, refs text, content_type text, options text)
  WHERE g.routing IS NOT NULL OR g.payload IS NOT NULL OR g.deadline IS NOT NULL
), now_due AS (
  INSERT INTO ready (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT id, due, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued' FROM given WHERE due <= %(now)s
), later AS (
  INSERT INTO delayed (message_id, due, kind_id, priority, fence, runs, attempts, crashes, locks, polls, auths, stage, state)
  SELECT id, due, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued' FROM given WHERE due > %(now)s
), bodies AS (
  INSERT INTO payload (message_id, body) SELECT id, payload FROM given WHERE octet_length(payload) > 0
), watched AS (
  INSERT INTO deadline (at, message_id) SELECT deadline, id FROM given WHERE deadline > 0
)
SELECT id FROM given ORDER BY id;

-- name: store_carefully
-- New messages one after the other with all rules about guids and keys; a receipt each.
SELECT r.id, r.guid, r.created, r.state, r.refused
FROM unnest(
  %(kind)s::text[], %(args)s::bytea[], %(priority)s::int[], %(delay)s::bigint[], %(due)s::bigint[], %(guid)s::text[],
  %(payload)s::bytea[], %(max_attempts)s::int[], %(deadline)s::bigint[], %(on_deadline)s::text[], %(notify)s::text[],
  %(routing)s::text[], %(key)s::text[], %(unique)s::text[], %(conflict)s::text[]
) AS g (kind, args, priority, delay, due, guid, payload, max_attempts, deadline, on_deadline, notify, routing, key,
        unique_key, conflict)
CROSS JOIN LATERAL enqueue_message(
  g.kind, g.args, g.payload, g.priority, g.delay, g.due, g.guid, g.key, g.unique_key, g.conflict, g.max_attempts,
  g.deadline, g.on_deadline, g.notify, g.routing::jsonb, %(now)s
) AS r;

-- name: ring
-- Dispatchers of other hosts learn that there is work of these kinds.
SELECT pg_notify(%(channel)s, g) FROM unnest(%(names)s::text[]) AS g (g);

-- name: payload
-- The bytes beside the arguments.
SELECT body FROM payload WHERE message_id = %(id)s;
