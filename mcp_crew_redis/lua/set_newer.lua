-- Store a value unless the key holds a newer one; atomic, one value.
-- Both carry the 16-byte header of _wire/header.py: magic 0xC7, format and flags, then
-- the stamp at byte 3 as a big-endian u64 below 2^53. A key without that magic holds
-- nothing of ours and counts as absent; one of a newer format is left alone.
-- Where nothing of ours stands the tenant's floor does: a purge removes values with
-- their stamps, and what is older must not come back. Else it need not be looked at:
-- what stands is above it, or the purge is on its way to this key.
-- KEYS[1] key      the value's key
-- KEYS[2] floor    the stamp of the tenant's last purge
-- ARGV[1] value    header and payload
-- ARGV[2] ttl_ms   time to live in milliseconds, over 0
-- Returns {outcome, stamp}: 1 stored, 0 a newer one or the floor stands, 2 the same bytes stood
-- already, 3 other bytes stand under the same stamp; and the stamp that stands now
-- Expiry: PX ARGV[2] with each write
local stamp = struct.unpack('>I8', ARGV[1], 3)
local held = redis.call('GETRANGE', KEYS[1], 0, 15)
if #held == 16 and string.byte(held, 1) == 0xC7 then
  if string.byte(held, 2) >= 0x20 then
    return redis.error_reply('NEWERFORMAT the value was written by a newer release')
  end
  local held_stamp = struct.unpack('>I8', held, 3)
  if held_stamp > stamp then
    return {0, held_stamp}
  end
  if held_stamp == stamp then
    local is_same = redis.call('GET', KEYS[1]) == ARGV[1]
    return {is_same and 2 or 3, stamp}
  end
else
  local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
  if floor >= stamp then
    return {0, floor}
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, stamp}
