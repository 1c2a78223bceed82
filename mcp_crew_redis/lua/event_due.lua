-- Move delayed events that are due into their streams, in the order of their due times.
-- A body is a msgpack array of stream key, envelope and payload. What is no such thing,
-- or names a stream of somebody else, is dropped and counted as lost; so is one whose
-- body has gone. Removal comes before XADD: a server without memory (OOM) would refuse to
-- begin with that, and as much is free afterwards as before.
-- KEYS[1] scheduled  sorted set: ids by due time in milliseconds
-- KEYS[2] bodies     hash: what is delayed, by id
-- KEYS[3] tally      counts what is dropped
-- ARGV[1] streams    what the keys of the tenant's streams begin with
-- ARGV[2] limit      how many to move at most
-- Returns {moved, dropped, next_ms}: how many, and ms until the next is due (0: now, -1:
-- there is none)
-- Expiry: none for the streams, whose retention is the janitor's; PEXPIRE of 30 days with
-- each write to the tally; the other two keep what they have
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
local moved, dropped = 0, 0

local function is_ours(parts)
  if type(parts) ~= 'table' then
    return false
  end
  local stream, envelope, payload = parts[1], parts[2], parts[3]
  return type(stream) == 'string'
    and type(envelope) == 'string'
    and type(payload) == 'string'
    and #stream > #ARGV[1]
    and string.sub(stream, 1, #ARGV[1]) == ARGV[1]
    and string.find(stream, ':', #ARGV[1] + 1, true) ~= nil
end

for _, id in ipairs(due) do
  local body = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  local is_read, parts = pcall(cmsgpack.unpack, body or '')
  local added
  if body and is_read and is_ours(parts) then
    added = redis.pcall('XADD', parts[1], '*', 'm', parts[2], 'd', parts[3])
  end
  if type(added) == 'string' then
    moved = moved + 1
  else
    dropped = dropped + 1
  end
end
if dropped > 0 then
  redis.call('HINCRBY', KEYS[3], 'lost', dropped)
  redis.call('PEXPIRE', KEYS[3], 2592000000)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {moved, dropped, first[2] and math.max(math.ceil(first[2] - now), 0) or -1}
