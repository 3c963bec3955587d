-- What a message is lies in `message` and is not changed; where it stands lies in one of ready, delayed, parked, lease
-- and done. Moments are milliseconds of UTC. There are no foreign keys: whoever deletes a message deletes its rows.

CREATE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
  AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE TYPE state AS ENUM (
  'queued', 'running', 'retry_scheduled', 'waiting_remote', 'blocked', 'succeeded', 'partial', 'dead_letter', 'cancelled'
);

-- `said`: an operator has set `paused` and `max_running`; before, `max_running` is that of the policy.
CREATE TABLE kind (
  id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text COLLATE "C" NOT NULL UNIQUE,
  policy      text NOT NULL DEFAULT '',
  said        boolean NOT NULL DEFAULT false,
  paused      boolean NOT NULL DEFAULT false,
  max_running integer NOT NULL DEFAULT 0,
  by          text NOT NULL DEFAULT '',
  at          bigint NOT NULL DEFAULT 0,
  reason      text NOT NULL DEFAULT ''
);

CREATE SEQUENCE message_id;

CREATE TABLE message (
  id               bigint PRIMARY KEY DEFAULT nextval('message_id'),
  created          bigint NOT NULL,
  kind_id          integer NOT NULL,
  priority         integer NOT NULL CHECK (priority BETWEEN -2147483647 AND 2147483646),
  payload_size     integer NOT NULL,
  max_attempts     integer NOT NULL,
  deadline         bigint NOT NULL,
  parent_id        bigint,
  guid             text COLLATE "C" NOT NULL,
  args             bytea NOT NULL,
  key              text,
  unique_key       text,
  notify           text,
  on_deadline      text,
  direction        text,
  destination      text,
  sender           text,
  sender_adapter   text,
  tenant           text,
  created_by       text,
  tracking_id      text,
  request_id       text,
  response_id      text,
  reply_to         text,
  refs             text,
  content_type     text,
  options          text
);
CREATE UNIQUE INDEX message_guid ON message (guid);
CREATE INDEX message_tracking ON message (tracking_id) WHERE tracking_id IS NOT NULL;

-- What was exchanged with another system: filled by whoever speaks to it.
CREATE TABLE remote (
  message_id       bigint PRIMARY KEY,
  is_async         boolean NOT NULL DEFAULT false,
  remote_id        text NOT NULL DEFAULT '',
  state_code       text NOT NULL DEFAULT '',
  requested        bigint NOT NULL DEFAULT 0,
  sent             bigint NOT NULL DEFAULT 0,
  answered         bigint NOT NULL DEFAULT 0,
  payload_original bytea,
  result_original  bytea,
  result_options   text NOT NULL DEFAULT ''
);
CREATE INDEX remote_remote_id ON remote (remote_id);

-- The parts of a message which succeed or fail one by one.
CREATE TABLE item (
  message_id bigint NOT NULL,
  ordinal    integer NOT NULL,
  guid       uuid NOT NULL UNIQUE,
  body       bytea NOT NULL,
  state      text NOT NULL DEFAULT 'queued',
  code       text NOT NULL DEFAULT '',
  text       text NOT NULL DEFAULT '',
  remote_id  text NOT NULL DEFAULT '',
  PRIMARY KEY (message_id, ordinal)
);

CREATE TABLE payload (message_id bigint PRIMARY KEY, body bytea NOT NULL);
ALTER TABLE payload ALTER body SET STORAGE EXTERNAL;

CREATE TABLE ready (
  message_id bigint NOT NULL,
  due        bigint NOT NULL,
  kind_id    integer NOT NULL,
  priority   integer NOT NULL,
  fence      bigint NOT NULL,
  runs integer NOT NULL, attempts integer NOT NULL, crashes integer NOT NULL,
  locks integer NOT NULL, polls integer NOT NULL, auths integer NOT NULL,
  stage      integer NOT NULL,
  state      state NOT NULL,
  PRIMARY KEY (kind_id, priority, due, message_id)
);
CREATE UNIQUE INDEX ready_message ON ready (message_id);

CREATE TABLE delayed (
  message_id bigint NOT NULL UNIQUE,
  due        bigint NOT NULL,
  kind_id    integer NOT NULL,
  priority   integer NOT NULL,
  fence      bigint NOT NULL,
  runs integer NOT NULL, attempts integer NOT NULL, crashes integer NOT NULL,
  locks integer NOT NULL, polls integer NOT NULL, auths integer NOT NULL,
  stage      integer NOT NULL,
  state      state NOT NULL,
  reason     text,
  PRIMARY KEY (kind_id, due, message_id)
);

CREATE TABLE parked (
  message_id bigint PRIMARY KEY,
  due        bigint NOT NULL,
  kind_id    integer NOT NULL,
  priority   integer NOT NULL,
  fence      bigint NOT NULL,
  runs integer NOT NULL, attempts integer NOT NULL, crashes integer NOT NULL,
  locks integer NOT NULL, polls integer NOT NULL, auths integer NOT NULL,
  stage      integer NOT NULL,
  state      state NOT NULL,
  reason     text
);

CREATE TABLE lease (
  message_id bigint PRIMARY KEY,
  fence      bigint NOT NULL,
  leased     bigint NOT NULL,
  due        bigint NOT NULL,
  kind_id    integer NOT NULL,
  priority   integer NOT NULL,
  node       integer NOT NULL,
  holder     integer NOT NULL,
  runs integer NOT NULL, attempts integer NOT NULL, crashes integer NOT NULL,
  locks integer NOT NULL, polls integer NOT NULL, auths integer NOT NULL,
  stage      integer NOT NULL,
  limited    boolean NOT NULL,
  began      boolean NOT NULL DEFAULT false,
  cancel     boolean NOT NULL DEFAULT false,
  progress   bytea
) WITH (fillfactor = 70);
CREATE INDEX lease_cancelled ON lease (node) WHERE cancel;
CREATE INDEX lease_limited ON lease (kind_id) WHERE limited;

CREATE TABLE done (
  message_id bigint PRIMARY KEY,
  finished   bigint NOT NULL,
  fence      bigint NOT NULL,
  kind_id    integer NOT NULL,
  state      state NOT NULL,
  runs integer NOT NULL, attempts integer NOT NULL, crashes integer NOT NULL,
  locks integer NOT NULL, polls integer NOT NULL, auths integer NOT NULL,
  stage      integer NOT NULL,
  reason     text,
  result     bytea
);
CREATE INDEX done_kind ON done (kind_id, state, finished);

CREATE TABLE attempt (
  message_id bigint NOT NULL,
  fence      bigint NOT NULL,
  started    bigint NOT NULL,
  ended      bigint NOT NULL,
  number     integer NOT NULL,
  stage      integer NOT NULL,
  pid        integer NOT NULL,
  worker     text NOT NULL,
  result     text NOT NULL,
  fault      text,
  code       text,
  text       text,
  stack      text,
  late       text,
  PRIMARY KEY (message_id, fence)
);

CREATE TABLE output (
  message_id bigint NOT NULL,
  stage      integer NOT NULL,
  body       bytea NOT NULL,
  PRIMARY KEY (message_id, stage)
);

-- A lock is there as long as the lease it names.
CREATE TABLE lock (
  key        text COLLATE "C" PRIMARY KEY,
  message_id bigint NOT NULL,
  fence      bigint NOT NULL
);
CREATE INDEX lock_message ON lock (message_id);

-- Of living messages. `next`: one that is parked until `message_id` has ended.
CREATE TABLE unique_key (
  kind_id    integer NOT NULL,
  key        text COLLATE "C" NOT NULL,
  message_id bigint NOT NULL,
  next       bigint,
  PRIMARY KEY (kind_id, key)
);
CREATE INDEX unique_key_message ON unique_key (message_id);
CREATE INDEX unique_key_next ON unique_key (next) WHERE next IS NOT NULL;

CREATE TABLE idempotency (
  sender     text COLLATE "C" NOT NULL,
  key        text COLLATE "C" NOT NULL,
  message_id bigint NOT NULL,
  digest     bytea NOT NULL,
  PRIMARY KEY (sender, key)
);
CREATE INDEX idempotency_message ON idempotency (message_id);

-- Deadlines nobody has looked at yet.
CREATE TABLE deadline (
  at         bigint NOT NULL,
  message_id bigint NOT NULL,
  PRIMARY KEY (at, message_id)
);

CREATE TABLE notification (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id bigint NOT NULL,
  addressee  text NOT NULL,
  subject    text NOT NULL,
  text       text NOT NULL,
  dedup      text COLLATE "C" NOT NULL UNIQUE,
  state      text NOT NULL DEFAULT 'queued',
  attempts   integer NOT NULL DEFAULT 0,
  due        bigint NOT NULL,
  sent       bigint NOT NULL DEFAULT 0
);
CREATE INDEX notification_message ON notification (message_id);

CREATE TABLE deed (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id bigint NOT NULL,
  at         bigint NOT NULL,
  actor      text NOT NULL,
  verb       text NOT NULL,
  detail     text NOT NULL DEFAULT ''
);
CREATE INDEX deed_message ON deed (message_id);

-- `instance`: of the processes that can see each other; those of another host that has the same name cannot.
CREATE TABLE node (
  id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text COLLATE "C" NOT NULL,
  instance   text COLLATE "C" NOT NULL,
  generation integer NOT NULL,
  until      bigint NOT NULL,
  lost       boolean NOT NULL DEFAULT false,
  UNIQUE (name, instance)
);

CREATE TABLE executor (
  id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node       integer NOT NULL,
  slot       text NOT NULL,
  pid        integer NOT NULL,
  start      bigint NOT NULL,
  enlisted   bigint NOT NULL,
  UNIQUE (node, slot, pid, start)
);

CREATE TABLE handler (node integer NOT NULL, kind_id integer NOT NULL, PRIMARY KEY (node, kind_id));

-- Rows of these live for seconds: they are vacuumed by number, not by share, and at full speed.
ALTER TABLE ready SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);
ALTER TABLE lease SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);
ALTER TABLE delayed SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0);
ALTER TABLE lock SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0);
ALTER TABLE unique_key SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0);

-- Where every message stands.
CREATE VIEW standing AS
  SELECT message_id, state, stage, due, fence, runs, attempts, crashes, locks, polls, auths,
         NULL::text AS reason, 0::bigint AS finished, NULL::bytea AS result, 0 AS holder, 0::bigint AS leased,
         NULL::bytea AS progress, false AS cancel
    FROM ready
  UNION ALL
  SELECT message_id, state, stage, due, fence, runs, attempts, crashes, locks, polls, auths,
         reason, 0, NULL, 0, 0, NULL, false
    FROM delayed
  UNION ALL
  SELECT message_id, state, stage, due, fence, runs, attempts, crashes, locks, polls, auths,
         reason, 0, NULL, 0, 0, NULL, false
    FROM parked
  UNION ALL
  SELECT message_id, 'running'::state, stage, due, fence, runs, attempts, crashes, locks, polls, auths,
         NULL, 0, NULL, holder, leased, progress, cancel
    FROM lease
  UNION ALL
  SELECT message_id, state, stage, 0, fence, runs, attempts, crashes, locks, polls, auths,
         reason, finished, result, 0, 0, NULL, false
    FROM done;
