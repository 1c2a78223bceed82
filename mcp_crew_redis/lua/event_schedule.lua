-- Keep an event until its time; atomic. Whoever looks for due ones appends it then.
-- Of one id one event waits. With a mark its repetition is known afterwards too. A body
-- is a cmsgpack array: key of the stream, envelope, payload.
-- KEYS[1] scheduled  sorted set: id by due time, in milliseconds since 1970
-- KEYS[2] bodies     hash: body by id
-- KEYS[3] mark       remembers the event's id
-- KEYS[4] floor      the stamp of the tenant's last purge
-- KEYS[5] stream     where it belongs
-- ARGV[1] name       the event's id
-- ARGV[2] head       the envelope
-- ARGV[3] body       the payload
-- ARGV[4] delay_ms   how long it waits, in milliseconds
-- ARGV[5] limit      so many may wait
-- ARGV[6] mark_ms    how long the id is remembered, in milliseconds; 0 for no mark
-- ARGV[7] made_us    0 for now, or when it was published: the delay counts from there, and what is older than the floor is refused
-- Returns {1, due_ms} kept; {2, place} known already: `-`, or where it was published;
-- and with nothing changed: {0, floor} the tenant was purged since, {3, count} so many
-- wait
-- Expiry: PEXPIREAT 7 days after the last due time for the set and the hash; PX for the
-- mark, which outlives the delay by ARGV[6]
local delay, mark_ms = tonumber(ARGV[4]), tonumber(ARGV[6])
local place = redis.call('GET', KEYS[3])
if place then
  local left = redis.call('PTTL', KEYS[3])
  redis.call('PEXPIRE', KEYS[3], math.max(left, mark_ms, 1))
  return {2, place}
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {2, '-'}
end
local made_us = tonumber(ARGV[7])
if made_us > 0 then
  local floor = redis.call('GET', KEYS[4])
  if floor and tonumber(floor) >= made_us then
    return {0, floor}
  end
else
  local time = redis.call('TIME')
  made_us = time[1] * 1000000 + time[2]
end
local count = redis.call('ZCARD', KEYS[1])
if count >= tonumber(ARGV[5]) then
  return {3, count}
end
local due = math.floor(made_us / 1000) + delay
local text = string.format('%.0f', due)
redis.call('HSET', KEYS[2], ARGV[1], cmsgpack.pack({KEYS[5], ARGV[2], ARGV[3]}))
redis.call('ZADD', KEYS[1], text, ARGV[1])
if mark_ms > 0 then
  redis.call('SET', KEYS[3], '-', 'PX', delay + mark_ms)
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local ends = string.format('%.0f', tonumber(last) + 604800000)
redis.call('PEXPIREAT', KEYS[1], ends)
redis.call('PEXPIREAT', KEYS[2], ends)
return {1, due}
