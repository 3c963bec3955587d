-- Enqueueing as functions, for applications in their own transactions and for other languages. They run with the
-- rights of their owner: who is to enqueue needs USAGE on the schema and nothing else.

CREATE FUNCTION state_of(wanted bigint) RETURNS state LANGUAGE sql STABLE
  AS $$ SELECT state FROM standing WHERE message_id = wanted $$;

-- The same arguments in another spelling of JSON are the same arguments.
CREATE FUNCTION digest_of(kind text, args bytea, payload bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE
  AS $$
DECLARE
  canonical bytea := args;
BEGIN
  BEGIN
    canonical := convert_to(convert_from(args, 'UTF8')::jsonb::text, 'UTF8');
  EXCEPTION WHEN data_exception THEN
    canonical := args;
  END;
  RETURN sha256(convert_to(kind, 'UTF8') || '\x00' || sha256(canonical) || sha256(payload));
END $$;

CREATE FUNCTION refusal_of(kind text, args bytea, payload bytea, key text, unique_key text) RETURNS text
  LANGUAGE sql IMMUTABLE
  AS $$ SELECT CASE
    WHEN kind = '' THEN 'a message needs a kind'
    WHEN octet_length(args) > 65536 THEN format('the arguments of %s have %s bytes, more than 65536: '
      'put what is large into the payload', kind, octet_length(args))
    WHEN octet_length(payload) > 10485760 THEN format('the payload of %s has %s bytes, more than 10485760: '
      'store it elsewhere and pass a reference', kind, octet_length(payload))
    WHEN length(key) > 255 OR length(unique_key) > 255 THEN
      format('a key of %s has more than 255 characters: use a hash of it', kind)
    ELSE '' END $$;

CREATE FUNCTION kind_of(wanted text) RETURNS integer LANGUAGE plpgsql
  AS $$
DECLARE
  found_id integer;
BEGIN
  SELECT id INTO found_id FROM kind WHERE name = wanted;
  IF NOT FOUND THEN
    INSERT INTO kind (name) VALUES (wanted) ON CONFLICT (name) DO NOTHING;
    SELECT id INTO STRICT found_id FROM kind WHERE name = wanted;
  END IF;
  RETURN found_id;
END $$;

-- Takes a unique key for a new message. Gives 0 when it has it now or stands next in line (then `waits`); else the
-- message that has it, with what the conflict mode does to that done.
CREATE FUNCTION take_unique_key(
  new_id bigint, new_kind integer, new_key text, conflict text, new_args bytea, new_payload bytea, OUT other bigint, OUT waits boolean
) LANGUAGE plpgsql
  AS $$
DECLARE
  held unique_key;
BEGIN
  other := 0;
  waits := false;
  FOR try IN 1..20 LOOP
    INSERT INTO unique_key (kind_id, key, message_id) VALUES (new_kind, new_key, new_id) ON CONFLICT DO NOTHING;
    IF FOUND THEN RETURN; END IF;
    SELECT * INTO held FROM unique_key WHERE kind_id = new_kind AND key = new_key FOR UPDATE;
    CONTINUE WHEN NOT FOUND;
    other := coalesce(held.next, held.message_id);
    IF conflict IN ('return', 'reject') THEN RETURN; END IF;
    PERFORM FROM ready WHERE message_id = other FOR UPDATE;
    IF NOT FOUND THEN PERFORM FROM delayed WHERE message_id = other FOR UPDATE; END IF;
    IF NOT FOUND THEN PERFORM FROM parked WHERE message_id = other FOR UPDATE; END IF;
    IF FOUND THEN
      IF conflict = 'replace' THEN PERFORM replace_body(other, new_args, new_payload); END IF;
      RETURN;
    END IF;
    PERFORM FROM lease WHERE message_id = other;
    IF FOUND THEN
      IF conflict = 'again' THEN
        UPDATE unique_key SET next = new_id WHERE kind_id = new_kind AND key = new_key;
        other := 0;
        waits := true;
      END IF;
      RETURN;
    END IF;
    PERFORM pg_sleep(0.002 * try);
  END LOOP;
  RAISE EXCEPTION 'message % changes too quickly to be compared with', other USING ERRCODE = 'serialization_failure';
END $$;

CREATE FUNCTION replace_body(old_id bigint, new_args bytea, new_payload bytea) RETURNS void LANGUAGE sql
  AS $$
  UPDATE message SET args = new_args, payload_size = octet_length(new_payload) WHERE id = old_id;
  DELETE FROM payload WHERE message_id = old_id;
  INSERT INTO payload SELECT old_id, new_payload WHERE octet_length(new_payload) > 0;
$$;

-- One message with all rules. `due` is a moment in ms of UTC, `delay` ms; `now` NULL: by the clock of the database.
CREATE FUNCTION enqueue_message(
  new_kind text, new_args bytea, new_payload bytea, new_priority integer, delay bigint, due bigint, new_guid text,
  new_key text, new_unique text, conflict text, new_max_attempts integer, new_deadline bigint, new_on_deadline text,
  new_notify text, routing jsonb, now bigint,
  OUT id bigint, OUT guid text, OUT created boolean, OUT state text, OUT refused text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
  AS $$
#variable_conflict use_column
DECLARE
  at bigint := coalesce(now, clock_ms());
  new_sender text := coalesce(routing->>'sender', '');
  kind_number integer;
  new_id bigint;
  other bigint;
  waits boolean := false;
  stored_digest bytea;
BEGIN
  created := false; id := 0; guid := ''; state := 'queued';
  refused := refusal_of(new_kind, new_args, new_payload, new_key, new_unique);
  IF refused <> '' THEN RETURN; END IF;
  kind_number := kind_of(new_kind);
  new_id := nextval('message_id');
  guid := CASE WHEN new_guid = '' THEN gen_random_uuid()::text ELSE new_guid END;
  INSERT INTO message (id, created, kind_id, priority, payload_size, max_attempts, deadline, parent_id, guid, args, key,
      unique_key, notify, on_deadline, direction, destination, sender, sender_adapter, tenant, created_by, tracking_id,
      request_id, response_id, reply_to, refs, content_type, options)
    VALUES (new_id, at, kind_number, new_priority, octet_length(new_payload), new_max_attempts, new_deadline,
      nullif((routing->>'parent_id')::bigint, 0), enqueue_message.guid, new_args, nullif(new_key, ''), nullif(new_unique, ''),
      nullif(new_notify, ''), nullif(new_on_deadline, 'expire'), nullif(routing->>'direction', 'task'),
      nullif(routing->>'destination', ''), nullif(new_sender, ''), nullif(routing->>'sender_adapter', ''),
      nullif(routing->>'tenant', ''), nullif(routing->>'created_by', ''), nullif(routing->>'tracking_id', ''),
      nullif(routing->>'request_id', ''), nullif(routing->>'response_id', ''), nullif(routing->>'reply_to', ''),
      nullif(routing->>'refs', ''), nullif(routing->>'content_type', ''), nullif(routing->>'options', ''))
    ON CONFLICT (guid) DO NOTHING;
  IF NOT FOUND THEN
    SELECT m.id INTO STRICT id FROM message m WHERE m.guid = enqueue_message.guid;
    state := state_of(id)::text;
    RETURN;
  END IF;
  IF new_key <> '' THEN
    INSERT INTO idempotency (sender, key, message_id, digest)
      VALUES (new_sender, new_key, new_id, digest_of(new_kind, new_args, new_payload)) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      SELECT message_id, digest INTO STRICT other, stored_digest FROM idempotency
        WHERE sender = new_sender AND key = new_key;
      IF stored_digest <> digest_of(new_kind, new_args, new_payload) THEN
        refused := format('the key %L was used for another message (%s)', new_key, other);
      END IF;
    END IF;
  END IF;
  IF other IS NULL AND new_unique <> '' THEN
    SELECT t.other, t.waits INTO other, waits
      FROM take_unique_key(new_id, kind_number, new_unique, conflict, new_args, new_payload) t;
    IF other > 0 THEN
      IF conflict <> 'reject' THEN
        UPDATE idempotency SET message_id = other WHERE message_id = new_id;
      ELSE
        DELETE FROM idempotency WHERE message_id = new_id;
        refused := format('message %s of %s lives and has the unique key %L', other, new_kind, new_unique);
      END IF;
    END IF;
  END IF;
  IF other > 0 THEN
    DELETE FROM message WHERE id = new_id;
    id := other;
    SELECT m.guid INTO guid FROM message m WHERE m.id = other;
    state := state_of(other)::text;
    RETURN;
  END IF;
  id := new_id;
  created := true;
  state := place_new(new_id, kind_number, new_priority, at, greatest(at + delay, due, at), waits)::text;
  INSERT INTO payload SELECT new_id, new_payload WHERE octet_length(new_payload) > 0;
  INSERT INTO deadline SELECT new_deadline, new_id WHERE new_deadline > 0;
  PERFORM pg_notify('bkd_' || current_schema(), new_kind);
END $$;

-- Where a new message begins: parked behind the one with its unique key, delayed, or ready.
CREATE FUNCTION place_new(new_id bigint, kind_number integer, new_priority integer, at bigint, due bigint, waits boolean)
  RETURNS state LANGUAGE plpgsql
  AS $$
BEGIN
  IF waits THEN
    INSERT INTO parked VALUES (new_id, due, kind_number, new_priority, 0, 0, 0, 0, 0, 0, 0, 0, 'blocked', 'unique');
    RETURN 'blocked';
  ELSIF due > at THEN
    INSERT INTO delayed VALUES (new_id, due, kind_number, new_priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued');
  ELSE
    INSERT INTO ready VALUES (new_id, due, kind_number, new_priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued');
  END IF;
  RETURN 'queued';
END $$;

-- For every language: SELECT bkd.enqueue('invoice.send', '{"id": 7}', delay => '5 minutes', unique_key => 'invoice:7').
-- Gives the id of the message, or of the one that is there with its key; raises check_violation with the reason when it is
-- refused.
CREATE FUNCTION enqueue(
  kind text, args jsonb DEFAULT '{}', payload bytea DEFAULT '', priority integer DEFAULT 50, delay interval DEFAULT '0',
  due timestamptz DEFAULT NULL, key text DEFAULT '', unique_key text DEFAULT '', conflict text DEFAULT 'return',
  max_attempts integer DEFAULT 0, deadline timestamptz DEFAULT NULL, on_deadline text DEFAULT 'expire',
  notify text DEFAULT '', guid text DEFAULT '', routing jsonb DEFAULT '{}'
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
  AS $$
DECLARE
  receipt record;
BEGIN
  IF conflict NOT IN ('return', 'reject', 'replace', 'again') THEN
    RAISE EXCEPTION 'conflict is return, reject, replace or again, not %', conflict USING ERRCODE = 'check_violation';
  END IF;
  IF on_deadline NOT IN ('expire', 'alert') THEN
    RAISE EXCEPTION 'on_deadline is expire or alert, not %', on_deadline USING ERRCODE = 'check_violation';
  END IF;
  SELECT * INTO receipt FROM enqueue_message(
    kind, convert_to(args::text, 'UTF8'), coalesce(payload, ''), priority,
    (extract(epoch FROM delay) * 1000)::bigint, coalesce((extract(epoch FROM due) * 1000)::bigint, 0), coalesce(guid, ''),
    coalesce(key, ''), coalesce(unique_key, ''), conflict, max_attempts,
    coalesce((extract(epoch FROM deadline) * 1000)::bigint, 0), on_deadline, coalesce(notify, ''), routing, NULL);
  IF receipt.refused <> '' THEN
    RAISE EXCEPTION '%', receipt.refused USING ERRCODE = 'check_violation';
  END IF;
  RETURN receipt.id;
END $$;

-- Arguments as JSON, or NULL when they are none that PostgreSQL can hold.
CREATE FUNCTION json_of(args bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
  AS $$
BEGIN
  RETURN convert_from(args, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
  RETURN NULL;
END $$;
