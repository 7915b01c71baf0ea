"""What runs inside Redis, each script as one atomic change.

Of a record, KEYS are its hash, outcomes and events. Those of indexes and of the sum of payloads'
bytes are made from a prefix, which is sound because the prefix's hash tag puts every key of the
service into one slot of a cluster.
"""

from typing import Final

_WRITE_ENTRIES: Final = """
local function write_entries(prefix, record, id, indexes)
  for name in string.gmatch(redis.call('HGET', record, 'indexes') or '', '[^ ]+') do
    redis.call('ZREM', prefix .. 'index:' .. name, id)
  end
  local names = {}
  for name, score in string.gmatch(indexes, '([^ ]+) ([^ ]+)') do
    redis.call('ZADD', prefix .. 'index:' .. name, score, id)
    names[#names + 1] = name
  end
  redis.call('HSET', record, 'indexes', table.concat(names, ' '))
end
"""

_COUNT_BYTES: Final = """
local function count_bytes(prefix, bytes)
  if bytes == 0 then return end
  local total = prefix .. 'payload-bytes'
  if redis.call('INCRBY', total, bytes) <= 0 then redis.call('DEL', total) end
end

-- First of all: a full Redis refuses what may add, but not what takes away, nor what follows that
-- in a script.
local function drop_payload(prefix, record)
  redis.call('HDEL', record, 'payload')
  count_bytes(prefix, -tonumber(redis.call('HGET', record, 'payload_bytes') or '0'))
  redis.call('HSET', record, 'payload', '', 'payload_bytes', 0)
end
"""

INSERT: Final = f"""{_WRITE_ENTRIES}{_COUNT_BYTES}
local prefix, id, body, guard, indexes, payload, most = unpack(ARGV)
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local bytes = string.len(payload)
local kept = tonumber(redis.call('GET', prefix .. 'payload-bytes') or '0')
if most ~= '' and kept + bytes > tonumber(most) then return -1 end
redis.call('HSET', KEYS[1], 'version', 1, 'body', body, 'guard', guard, 'payload', payload)
redis.call('HSET', KEYS[1], 'payload_bytes', bytes)
count_bytes(prefix, bytes)
write_entries(prefix, KEYS[1], id, indexes)
return 1
"""

REPLACE: Final = f"""{_WRITE_ENTRIES}{_COUNT_BYTES}
local prefix, id, body, guard, indexes, version, drops_payload = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'version') ~= version then return 0 end
if drops_payload == '1' then drop_payload(prefix, KEYS[1]) end
redis.call('HSET', KEYS[1], 'body', body, 'guard', guard)
redis.call('HINCRBY', KEYS[1], 'version', 1)
write_entries(prefix, KEYS[1], id, indexes)
return 1
"""

DELETE: Final = f"""{_WRITE_ENTRIES}{_COUNT_BYTES}
local prefix, id, version = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'version') ~= version then return 0 end
write_entries(prefix, KEYS[1], id, '')
drop_payload(prefix, KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
"""

PUT_OUTCOME: Final = """
local name, body, guard = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'guard') ~= guard then return 0 end
redis.call('HSETNX', KEYS[2], name, body)
return 1
"""

APPEND_EVENT: Final = """
local body, keep, guard = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'guard') ~= guard then return 0 end
redis.call('HINCRBY', KEYS[1], 'num_events', 1)
redis.call('RPUSH', KEYS[3], body)
redis.call('LTRIM', KEYS[3], -tonumber(keep), -1)
return 1
"""

READ_EVENTS: Final = """
local last = tonumber(redis.call('HGET', KEYS[1], 'num_events') or '0')
local kept = redis.call('LLEN', KEYS[3])
local skipped = math.max(0, tonumber(ARGV[1]) - (last - kept))
return {last - kept + skipped + 1, redis.call('LRANGE', KEYS[3], skipped, -1)}
"""

PAGE: Final = """
local after, limit = ARGV[1], tonumber(ARGV[2])
local start = 0
if after ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], after)
  if not rank then return {} end
  start = rank + 1
end
return redis.call('ZREVRANGE', KEYS[1], start, start + limit - 1)
"""
