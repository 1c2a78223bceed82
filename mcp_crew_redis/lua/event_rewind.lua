-- Put a group of one stream to another place: what comes after it is delivered (again).
-- What is pending stays so. The bell does not ring for XGROUP SETID, but for PEXPIRE: it
-- is set and taken away within this script, so that consumers look.
-- KEYS[1] stream  the key of the stream
-- ARGV[1] group   its name
-- ARGV[2] id      the place: entries with greater ids are delivered; "$" is the end
-- ARGV[3] read    how many entries come before it, -1 if that is not known
-- Returns 1, or 0 if there is no such stream or group
-- Expiry: none, which would take unacknowledged events along
local done
if ARGV[3] == '-1' then
  done = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
else
  done = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2], 'ENTRIESREAD', ARGV[3])
end
if done.err then
  if string.find(done.err, 'NOGROUP', 1, true) or redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
  end
  return done
end
redis.call('PEXPIRE', KEYS[1], 86400000)
redis.call('PERSIST', KEYS[1])
return 1
