-- Take entries whose next attempt is due: each by whoever asks first.
-- KEYS[1] stream  the key of the stream
-- KEYS[2] parked   sorted set: what waits
-- KEYS[3] tally    hash of the group's counts
-- ARGV[1] group  its name
-- ARGV[2] consumer  who takes them
-- ARGV[3] ids       entry ids, separated by spaces, at most 1000
-- Returns {entries, lost}: {id, fields, deliveries} of each that was waiting still, and
-- how many of them are gone from the stream
-- Expiry: PEXPIRE of 30 days on the tally
local taken, lost = {}, 0
for id in string.gmatch(ARGV[3], '%S+') do
  if redis.call('ZREM', KEYS[2], KEYS[1] .. '|' .. id) == 1 then
    local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    if not pending.err and pending[1] then
      local found = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)[1]
      if found then
        taken[#taken + 1] = {id, found[2], pending[1][4] + 1}
      else
        redis.call('XACK', KEYS[1], ARGV[1], id)
        lost = lost + 1
      end
    end
  end
end
if lost > 0 then
  redis.call('HINCRBY', KEYS[3], 'lost', lost)
end
if #taken > 0 then
  redis.call('HINCRBY', KEYS[3], 'redelivered', #taken)
end
if #taken + lost > 0 then
  redis.call('PEXPIRE', KEYS[3], 2592000000)
end
return {taken, lost}
