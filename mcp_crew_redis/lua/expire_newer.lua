-- Give a live value another time to live and a new header, unless it is newer; atomic,
-- one value. The payload is neither sent nor copied. A value that is not above the
-- tenant's floor is absent: a newer header would take it out of the purge's way.
-- PEXPIRE comes first: a server without memory (OOM) would refuse to begin with SETRANGE,
-- which here needs none, and lets go on who has written.
-- KEYS[1] key       the value's key
-- KEYS[2] floor     the stamp of the tenant's last purge
-- ARGV[1] header    16 bytes with the new stamp and the new expires_at
-- ARGV[2] ttl_ms    time to live in milliseconds, over 0
-- Returns {outcome, stamp}: 1 done, 0 a newer one stands, 2 this header stood already,
-- 3 another header stands under its stamp, 4 no live value, 5 no header of ours; and
-- the stamp that stands now
-- Expiry: PEXPIRE ARGV[2] with each write
local stamp = struct.unpack('>I8', ARGV[1], 3)
local held = redis.call('GETRANGE', KEYS[1], 0, 15)
if #held == 0 then
  return {4, 0}
end
if #held < 16 or string.byte(held, 1) ~= 0xC7 then
  return {5, 0}
end
if string.byte(held, 2) >= 0x20 then
  return redis.error_reply('NEWERFORMAT the value was written by a newer release')
end
local held_stamp = struct.unpack('>I8', held, 3)
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
if string.byte(held, 2) % 2 == 1 or held_stamp <= floor then
  return {4, held_stamp}
end
if held_stamp > stamp then
  return {0, held_stamp}
end
if held_stamp == stamp then
  return {held == ARGV[1] and 2 or 3, stamp}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
return {1, stamp}
