-- Make a dead letter of an entry and acknowledge it, in one step.
-- KEYS[1] stream  the key of the stream
-- KEYS[2] dead     the group's dead letters: a stream
-- KEYS[3] parked   sorted set: what waits for its next attempt
-- KEYS[4] tally    hash of the group's counts
-- ARGV[1] group  its name
-- ARGV[2] consumer  who has it now; nobody else's entry is touched
-- ARGV[3] id  of the entry
-- ARGV[4] count     how often it was delivered
-- ARGV[5] reason    why, as text
-- Returns 1 if it is a dead letter now, -1 if it was gone from the stream, 0 if it is
-- not this consumer's (any more)
-- Expiry: PEXPIRE of 7 days on dead letters, of 30 on the tally
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if pending.err or not pending[1] then
  return 0
end
-- Before all else: once it has written, a server without memory lets a script end.
redis.call('ZREM', KEYS[3], KEYS[1] .. '|' .. ARGV[3])
local found = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
local outcome = -1
if found then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local letter = {'XADD', KEYS[2], 'MAXLEN', '~', 100000, '*'}
  for at = 1, math.min(#found[2], 1000) do -- of a foreign entry; ours have four
    letter[#letter + 1] = found[2][at]
  end
  for _, field in ipairs({'_s', KEYS[1], '_i', ARGV[3], '_n', ARGV[4], '_r', ARGV[5], '_t', now}) do
    letter[#letter + 1] = field
  end
  redis.call(unpack(letter))
  redis.call('PEXPIRE', KEYS[2], 604800000)
  outcome = 1
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('HINCRBY', KEYS[4], outcome == 1 and 'dead' or 'lost', 1)
redis.call('PEXPIRE', KEYS[4], 2592000000)
return outcome
