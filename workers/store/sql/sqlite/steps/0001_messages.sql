-- What is told of a message once and for all; only `due` follows where it waits, and `args` a replacement.
CREATE TABLE message (
  id INTEGER PRIMARY KEY,
  guid TEXT NOT NULL,
  kind_id INTEGER NOT NULL,
  args BLOB NOT NULL,
  payload_size INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL,
  created INTEGER NOT NULL,
  due INTEGER NOT NULL,
  max_attempts INTEGER NOT NULL DEFAULT 0,
  deadline INTEGER NOT NULL DEFAULT 0,
  on_deadline TEXT NOT NULL DEFAULT '',
  key TEXT NOT NULL DEFAULT '',
  unique_key TEXT NOT NULL DEFAULT '',
  notify TEXT NOT NULL DEFAULT '',
  direction TEXT NOT NULL DEFAULT 'task',
  destination TEXT NOT NULL DEFAULT '',
  sender TEXT NOT NULL DEFAULT '',
  sender_adapter TEXT NOT NULL DEFAULT '',
  tenant TEXT NOT NULL DEFAULT '',
  created_by TEXT NOT NULL DEFAULT '',
  tracking_id TEXT NOT NULL DEFAULT '',
  request_id TEXT NOT NULL DEFAULT '',
  response_id TEXT NOT NULL DEFAULT '',
  reply_to TEXT NOT NULL DEFAULT '',
  parent_id INTEGER NOT NULL DEFAULT 0,
  refs TEXT NOT NULL DEFAULT '',
  content_type TEXT NOT NULL DEFAULT '',
  options TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX message_guid ON message (guid);

CREATE TABLE payload (message_id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- The planes: a message is in exactly one of ready, delayed, parked, lease, done. `marks`: 1 it has a unique key,
-- 2 it may have locks. `fence` is that of the last lease.
CREATE TABLE ready (
  kind_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  due INTEGER NOT NULL,
  message_id INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  state TEXT NOT NULL,
  stage INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  locks INTEGER NOT NULL,
  polls INTEGER NOT NULL,
  auths INTEGER NOT NULL,
  marks INTEGER NOT NULL,
  PRIMARY KEY (kind_id, priority, due, message_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE delayed (
  kind_id INTEGER NOT NULL,
  due INTEGER NOT NULL,
  message_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  state TEXT NOT NULL,
  stage INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  locks INTEGER NOT NULL,
  polls INTEGER NOT NULL,
  auths INTEGER NOT NULL,
  marks INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (kind_id, due, message_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked (
  message_id INTEGER PRIMARY KEY,
  kind_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  due INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  state TEXT NOT NULL,
  stage INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  locks INTEGER NOT NULL,
  polls INTEGER NOT NULL,
  auths INTEGER NOT NULL,
  marks INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT;

CREATE TABLE lease (
  message_id INTEGER PRIMARY KEY,
  fence INTEGER NOT NULL,
  kind_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  due INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  locks INTEGER NOT NULL,
  polls INTEGER NOT NULL,
  auths INTEGER NOT NULL,
  marks INTEGER NOT NULL,
  node INTEGER NOT NULL,
  holder INTEGER NOT NULL,
  leased INTEGER NOT NULL,
  began INTEGER NOT NULL DEFAULT 0,
  cancel INTEGER NOT NULL DEFAULT 0,
  progress BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX lease_cancelled ON lease (node) WHERE cancel > 0;

CREATE TABLE done (
  message_id INTEGER PRIMARY KEY,
  kind_id INTEGER NOT NULL,
  state TEXT NOT NULL,
  finished INTEGER NOT NULL,
  reason TEXT NOT NULL,
  fence INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  locks INTEGER NOT NULL,
  polls INTEGER NOT NULL,
  auths INTEGER NOT NULL,
  result BLOB NOT NULL
) STRICT;
CREATE INDEX done_kept ON done (kind_id, state, finished);

CREATE TABLE attempt (
  message_id INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  number INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  worker TEXT NOT NULL,
  pid INTEGER NOT NULL,
  started INTEGER NOT NULL,
  ended INTEGER NOT NULL,
  result TEXT NOT NULL,
  fault TEXT NOT NULL,
  code TEXT NOT NULL,
  text TEXT NOT NULL,
  stack TEXT NOT NULL,
  late TEXT NOT NULL,
  PRIMARY KEY (message_id, fence)
) STRICT, WITHOUT ROWID;

CREATE TABLE output (
  message_id INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (message_id, stage)
) STRICT, WITHOUT ROWID;

-- What was exchanged with another system: filled by whoever speaks to it.
CREATE TABLE remote (
  message_id INTEGER PRIMARY KEY,
  is_async INTEGER NOT NULL DEFAULT 0,
  remote_id TEXT NOT NULL DEFAULT '',
  state_code TEXT NOT NULL DEFAULT '',
  requested INTEGER NOT NULL DEFAULT 0,
  sent INTEGER NOT NULL DEFAULT 0,
  answered INTEGER NOT NULL DEFAULT 0,
  payload_original BLOB,
  result_original BLOB,
  result_options TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX remote_remote_id ON remote (remote_id);

-- The parts of a message which succeed or fail one by one.
CREATE TABLE item (
  message_id INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  guid TEXT NOT NULL UNIQUE,
  body BLOB NOT NULL,
  state TEXT NOT NULL DEFAULT 'queued',
  code TEXT NOT NULL DEFAULT '',
  text TEXT NOT NULL DEFAULT '',
  remote_id TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (message_id, ordinal)
) STRICT, WITHOUT ROWID;

-- A lock is there as long as the lease it names.
CREATE TABLE lock (
  key TEXT PRIMARY KEY,
  message_id INTEGER NOT NULL,
  fence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX lock_message ON lock (message_id);

-- Of living messages. `next`: one that is parked until `message_id` has ended.
CREATE TABLE unique_key (
  kind_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  message_id INTEGER NOT NULL,
  next INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  sender TEXT NOT NULL,
  key TEXT NOT NULL,
  message_id INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (sender, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_message ON idempotency (message_id);

-- Deadlines nobody has looked at yet.
CREATE TABLE deadline (
  at INTEGER NOT NULL,
  message_id INTEGER NOT NULL,
  PRIMARY KEY (at, message_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE notification (
  id INTEGER PRIMARY KEY,
  message_id INTEGER NOT NULL,
  addressee TEXT NOT NULL,
  subject TEXT NOT NULL,
  text TEXT NOT NULL,
  dedup TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL DEFAULT 'queued',
  attempts INTEGER NOT NULL DEFAULT 0,
  due INTEGER NOT NULL,
  sent INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX notification_message ON notification (message_id);

CREATE TABLE deed (
  id INTEGER PRIMARY KEY,
  message_id INTEGER NOT NULL,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  verb TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE INDEX deed_message ON deed (message_id);

-- `said`: an operator has set `paused` and `max_running`; before, the policy's limit holds.
CREATE TABLE kind (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  policy TEXT NOT NULL DEFAULT '',
  said INTEGER NOT NULL DEFAULT 0,
  paused INTEGER NOT NULL DEFAULT 0,
  max_running INTEGER NOT NULL DEFAULT 0,
  by TEXT NOT NULL DEFAULT '',
  at INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE node (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  generation INTEGER NOT NULL,
  until INTEGER NOT NULL,
  lost INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE executor (
  id INTEGER PRIMARY KEY,
  node INTEGER NOT NULL,
  slot TEXT NOT NULL,
  pid INTEGER NOT NULL,
  start INTEGER NOT NULL,
  enlisted INTEGER NOT NULL,
  UNIQUE (node, slot, pid, start)
) STRICT;

CREATE TABLE handler (
  node INTEGER NOT NULL,
  kind_id INTEGER NOT NULL,
  PRIMARY KEY (node, kind_id)
) STRICT, WITHOUT ROWID;

-- The next number of a message: numbers are not used again, whatever is deleted.
CREATE TABLE sequence (name TEXT PRIMARY KEY, next INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sequence (name, next) VALUES ('message', 1);
