-- Leave a tombstone under each key unless it holds something newer; atomic, one slot.
-- Headers are those of _wire/header.py. A key without one counts as absent, and gets
-- the tombstone too: a write that is older and still on its way must find it. Every
-- key is read before the first is written, so an error leaves all as they were.
-- A server without memory (OOM) refuses to begin with a SET, and lets go on who has
-- written: so the first value that is to go makes way for the tombstones. Where none
-- lives, the refusal stands.
-- KEYS[1+] keys       the values' keys, a bounded number; then the tenant's floor
-- ARGV[1] tombstone   a header with its flag set, the same for every key
-- ARGV[2] ttl_ms      how long tombstones are kept, in milliseconds, over 0
-- Returns {outcome, stamp, was_live} for each key, flat: 1 deleted, 0 a newer one
-- or the floor stands, 2 this tombstone stood already, 3 something else stands under its stamp;
-- the stamp that stands now; 1 if a live value stood there before
-- Expiry: PX ARGV[2] with each write
local stamp = struct.unpack('>I8', ARGV[1], 3)
local headers, first_live = {}, nil
local count = #KEYS - 1
local floor = tonumber(redis.call('GET', KEYS[#KEYS]) or 0)
for i = 1, count do
  local key = KEYS[i]
  local held = redis.call('GETRANGE', key, 0, 15)
  local is_ours = #held == 16 and string.byte(held, 1) == 0xC7
  if is_ours and string.byte(held, 2) >= 0x20 then
    return redis.error_reply('NEWERFORMAT the value was written by a newer release')
  end
  headers[i] = is_ours and held
  if is_ours and not first_live and string.byte(held, 2) % 2 == 0
    and struct.unpack('>I8', held, 3) < stamp then
    first_live = key
  end
end
local answer = {}
for i = 1, count do
  local key = KEYS[i]
  local held = headers[i]
  local held_stamp, was_live = -1, 0
  if held then
    held_stamp = struct.unpack('>I8', held, 3)
    if string.byte(held, 2) % 2 == 0 then
      was_live = 1
    end
  end
  local outcome = 1
  if not held and floor >= stamp then
    outcome, held_stamp = 0, floor
  elseif held_stamp > stamp then
    outcome = 0
  elseif held_stamp == stamp then
    outcome = held == ARGV[1] and 2 or 3
  else
    local refusal = redis.pcall('SET', key, ARGV[1], 'PX', ARGV[2]).err
    if refusal and first_live then
      redis.call('UNLINK', first_live)
      redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    elseif refusal then
      return redis.error_reply(refusal)
    end
    held_stamp = stamp
  end
  answer[#answer + 1] = outcome
  answer[#answer + 1] = held_stamp
  answer[#answer + 1] = was_live
end
return answer
