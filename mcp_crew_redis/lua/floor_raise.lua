-- Put a tenant's floor back where a purge had raised it; a higher one stays.
-- Unlike purge_floor.lua it purges nothing new: what was written since stays valid.
-- PERSIST comes first for the same reason as there: a server without memory.
-- KEYS[1] floor   the stamp of the last purge, as decimal digits
-- ARGV[1] stamp   the floor that was acknowledged, in microseconds since 1970
-- Returns the floor that stands now
-- Expiry: none; on the permanent list, as in purge_floor.lua
local held = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
if held >= tonumber(ARGV[1]) then
  return held
end
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
return tonumber(ARGV[1])
