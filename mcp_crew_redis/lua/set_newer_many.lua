-- Store values unless their keys hold newer ones; as set_newer.lua, for many keys of
-- one slot, atomically. Every key is read before the first is written, so an error
-- leaves all as they were.
-- KEYS[1+] keys    the values' keys, a bounded number; then the tenant's floor
-- ARGV[1+] pairs   for each key: header and payload, then its time to live in
-- milliseconds, over 0
-- Returns {outcome, stamp} for each key, flat, with the meaning of set_newer.lua
-- Expiry: PX with each write, the second of its pair
local headers = {}
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
end
local answer = {}
for i = 1, count do
  local key = KEYS[i]
  local value = ARGV[2 * i - 1]
  local stamp = struct.unpack('>I8', value, 3)
  local held_stamp = headers[i] and struct.unpack('>I8', headers[i], 3) or -1
  local outcome = 1
  if not headers[i] and floor >= stamp then
    outcome, held_stamp = 0, floor
  elseif held_stamp > stamp then
    outcome = 0
  elseif held_stamp == stamp then
    outcome = redis.call('GET', key) == value and 2 or 3
  else
    redis.call('SET', key, value, 'PX', ARGV[2 * i])
    held_stamp = stamp
  end
  answer[#answer + 1] = outcome
  answer[#answer + 1] = held_stamp
end
return answer
