-- Raise a tenant's floor: nothing older may be written for it again by a repetition.
-- The server's time, so that no process whose clock is behind can purge too little.
-- PERSIST comes first: a server without memory (OOM) would refuse to begin with SET, and
-- a purge is what frees some. Once a script has written, it may go on.
-- KEYS[1] floor   the stamp of the last purge, as decimal digits
-- ARGV[1] stamp   the caller's newest stamp, 0 for none: what it wrote goes too
-- Returns the floor that stands now, in microseconds since 1970
-- Expiry: none; on the permanent list, for nobody knows how long a journal lives
local now = redis.call('TIME')
local floor = math.max(now[1] * 1000000 + now[2], tonumber(ARGV[1]))
local held = redis.call('GET', KEYS[1])
if held then
  floor = math.max(floor, tonumber(held) or 0)
end
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], string.format('%.0f', floor))
return floor
