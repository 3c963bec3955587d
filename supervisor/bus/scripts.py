"""What the bus's server does at one moment: scripts in Lua 5.1, for Redis 6.2 and later and for Valkey.

KEYS are keys and ARGV are values, and each script touches one key, so that they also work in a cluster of servers. The
time is the server's. LIMIT and LOCK, RENEW, UNLOCK do the sums of `ipc/bucket.py` and `ipc/leases.py`.
"""

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script and the name the server knows it by once it has seen it."""

    text: str
    digest: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV: expected ("1" and a value, or "0" and ""), new (the same), milliseconds to live (0: for ever)
SWAP = _script("""\
local held = redis.call('GET', KEYS[1])
if ARGV[1] == '1' then
  if held ~= ARGV[2] then return 0 end
elseif held then
  return 0
end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
elseif ARGV[5] == '0' then
  redis.call('SET', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
end
return 1
""")

# ARGV: rate, interval, burst, cost, reset, multiplier, cap, what the bucket is made for; returns seconds as text
LIMIT = _script("""\
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local rate, interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local reset, multiplier, cap = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local tokens, at, long, calls = burst, now, interval, 0
local kept = redis.call('HMGET', KEYS[1], 'made_for', 'tokens', 'at', 'interval', 'calls')
if kept[1] == ARGV[8] then
  tokens, at, long, calls = tonumber(kept[2]), tonumber(kept[3]), tonumber(kept[4]), tonumber(kept[5])
end
tokens = math.min(burst, tokens + math.max(0, now - at) * rate / long)
calls = calls + 1
local wait = (cost - tokens) * long / rate
local taken = wait <= 0.000001
if taken then
  tokens, wait = tokens - cost, 0
  if multiplier < 0 then long = interval end
else
  local times = math.abs(multiplier)
  if times > 1 then long = math.max(interval, math.min(long * times, cap)) end
  wait = (cost - tokens) * long / rate
end
if (reset == 1 and not taken) or (reset > 1 and calls >= reset) then
  redis.call('DEL', KEYS[1])
else
  local lifetime = math.max(0, burst - tokens) * long / rate
  redis.call('HSET', KEYS[1], 'made_for', ARGV[8], 'tokens', string.format('%.17g', tokens),
    'at', string.format('%.17g', now), 'interval', string.format('%.17g', long), 'calls', string.format('%d', calls))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(lifetime * 1000, 1e14) + 1000))
end
return string.format('%.17g', wait)
""")

# ARGV: owner, microseconds to hold it, milliseconds the fence is remembered beyond that
# returns the fence (0: held by another) and the microseconds that one has left
LOCK = _script("""\
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local kept = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'until')
local fence, ends = tonumber(kept[2] or 0), tonumber(kept[3] or 0)
if kept[1] and ends > now then
  if kept[1] ~= ARGV[1] then return {0, ends - now} end
else
  fence = math.max(fence + 1, now)
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', string.format('%.0f', fence),
  'until', string.format('%.0f', now + tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[2]) / 1000 + tonumber(ARGV[3])))
return {fence, 0}
""")

# ARGV as for LOCK
RENEW = _script("""\
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local kept = redis.call('HMGET', KEYS[1], 'owner', 'until')
if kept[1] ~= ARGV[1] or tonumber(kept[2]) <= now then return 0 end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[2]) / 1000 + tonumber(ARGV[3])))
return 1
""")

# ARGV: owner, milliseconds the fence is remembered
UNLOCK = _script("""\
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local kept = redis.call('HMGET', KEYS[1], 'owner', 'until')
if kept[1] ~= ARGV[1] or tonumber(kept[2]) <= now then return 0 end
redis.call('HDEL', KEYS[1], 'owner', 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""")

# The id given out last, "" when there is no such stream; XINFO alone would be an error then
LAST = _script("""\
if redis.call('EXISTS', KEYS[1]) == 0 then return '' end
local facts = redis.call('XINFO', 'STREAM', KEYS[1])
for place = 1, #facts, 2 do
  if facts[place] == 'last-generated-id' then return facts[place + 1] end
end
return ''
""")
