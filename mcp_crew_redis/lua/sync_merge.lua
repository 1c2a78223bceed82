-- Bring a value or a tombstone that waited into Redis, unless something newer stands.
-- Headers are those of _wire/header.py. Unlike set_newer.lua it is for what was written
-- long ago: its end is the one it had from the beginning, the tenant's floor always
-- counts, and where nothing stands any more it may be too old to tell why: the
-- tombstone of a newer delete would be gone by then. What a tombstone replaces makes
-- way first: a server without memory (OOM) would refuse to begin with SET.
-- KEYS[1] key        the value's key
-- KEYS[2] floor      the stamp of the tenant's last purge
-- ARGV[1] value      header and payload
-- ARGV[2] ends_ms    when it is over, in milliseconds since 1970
-- ARGV[3] memory_us  how long deletes are remembered, in microseconds
-- Returns {outcome, stamp}: 1 applied; 2 the same bytes stood already; and with nothing changed:
-- 0 a newer one stands, 3 other bytes stand under the same stamp, 4 its own time is
-- over, 5 the tenant was purged since, 6 nothing stands and it is older than memory_us;
-- and the stamp that stands now, the floor for 5
-- Expiry: PXAT ARGV[2] with the write
local stamp = struct.unpack('>I8', ARGV[1], 3)
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
if floor >= stamp then
  return {5, floor}
end
local held = redis.call('GETRANGE', KEYS[1], 0, 15)
local is_ours = #held == 16 and string.byte(held, 1) == 0xC7
if is_ours then
  if string.byte(held, 2) >= 0x20 then
    return redis.error_reply('NEWERFORMAT the value was written by a newer release')
  end
  local held_stamp = struct.unpack('>I8', held, 3)
  if held_stamp > stamp then
    return {0, held_stamp}
  end
  if held_stamp == stamp then
    return {redis.call('GET', KEYS[1]) == ARGV[1] and 2 or 3, stamp}
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if tonumber(ARGV[2]) * 1000 <= now then
  return {4, stamp}
end
if not is_ours and stamp < now - tonumber(ARGV[3]) then
  return {6, stamp}
end
if string.byte(ARGV[1], 2) % 2 == 1 then
  redis.call('UNLINK', KEYS[1])
end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return {1, stamp}
