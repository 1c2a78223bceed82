-- Let an entry wait for its next attempt; it stays pending, so no crash loses it.
-- KEYS[1] stream  the key of the stream
-- KEYS[2] parked   sorted set: what waits, by due time in milliseconds
-- ARGV[1] group  its name
-- ARGV[2] consumer  who has it now; nobody else's entry is touched
-- ARGV[3] id  of the entry
-- ARGV[4] wait_ms   until it is due
-- Returns 1 if it waits now, 0 if it is not this consumer's (any more)
-- Expiry: PEXPIRE of 7 days and ARGV[4] on the set
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if pending.err or not pending[1] then
  return 0
end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])
-- Removed first: once it has written, a server without memory lets a script go on.
redis.call('ZREM', KEYS[2], KEYS[1] .. '|' .. ARGV[3])
redis.call('ZADD', KEYS[2], due, KEYS[1] .. '|' .. ARGV[3])
local expiry = 604800000 + tonumber(ARGV[4])
if redis.call('PTTL', KEYS[2]) < expiry then
  redis.call('PEXPIRE', KEYS[2], expiry)
end
return 1
