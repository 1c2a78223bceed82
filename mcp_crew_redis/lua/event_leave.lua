-- Remove a consumer that goes, unless something is still pending under its name: that
-- would be lost with it.
-- KEYS[1] stream  the key of the stream
-- ARGV[1] group  its name
-- ARGV[2] consumer  its name
-- Returns 1 if it is gone, 0 if it has to stay
-- Expiry: none is changed
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if pending.err then
  return 1
end
if pending[1] then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
