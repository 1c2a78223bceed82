-- Apply the writes of one transaction, all or none, once; atomic, one slot.
-- Everything is read and judged before the first write, and the first write is that of
-- the mark, which a server without memory (OOM) refuses: then nothing is applied.
-- Values are judged by their stamps as in set_newer.lua. One that comes late, from a
-- journal or a replay, leaves what is newer as it is, and gives its values what is left
-- of their time. Counters are hashes of counter_add.lua; no writer is noted there, for
-- it is the mark that tells a repetition. Their sums are tried out in halves of nine
-- digits: a number of Lua would round them.
-- KEYS[1] mark       remembers what came of this transaction
-- KEYS[2] floor      the stamp of the tenant's last purge
-- KEYS[3+] named     what the operations name by their place among KEYS
-- ARGV[1] mark_ms    how long the mark is kept, in milliseconds
-- ARGV[2] memory_us  0 while its caller waits, else it is late: what is older than that
-- many microseconds is not applied, for its mark may be gone
-- ARGV[3+] operations  five each and, at the end, the stamp of all values, in
-- microseconds; an operation is its kind, the place of its key, and by kind
--   S value  ttl_ms if_stamp   a value of a synchronised type, or its tombstone
--   P value  ttl_ms if_stamp   a value of a type without order
--   U ''     0      if_stamp   its end
--   C amount ttl_ms ''         a counter
--   E head   body   mark       an event for a stream; mark is a place, 0 for none
--   L head   body   'bodies stream mark delay_ms limit id'   an event for later, kept as
--     in event_schedule.lua: its key is the sorted set, the first three are places
-- if_stamp is '' for no condition, 0 for: there is none
-- Returns {outcome, text}: 1 applied, 2 it had been before: then text is the stamp and what
-- came of each C, E and L, separated by spaces: a value, a place in a stream, - for a
-- later one, and after = the place of an event that was known already. With nothing
-- changed: 0 a newer value or the floor stands, or for a late one: the tenant was purged
-- since; text is the stamp that stands. 6 older than memory_us. And with the number of
-- the operation: 3 too many events wait already, 4 a condition does not hold, 5 a
-- counter would leave 64 bits, 7 a key holds something else
-- Expiry: PX ARGV[1] for marks, PX of each value, PEXPIRE with each addition, PEXPIREAT 7
-- days after the last due time for what waits; streams have none, their length is the
-- janitor's
local recorded = redis.call('GET', KEYS[1])
if recorded then
  return {2, recorded}
end
local mark_ms, memory, text_stamp = ARGV[1], tonumber(ARGV[2]), ARGV[#ARGV]
local stamp = tonumber(text_stamp)
local is_late = memory > 0
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local floor = redis.call('GET', KEYS[2])
if floor and tonumber(floor) >= stamp then
  return {0, floor}
end
if is_late and stamp < now - memory then
  return {6, text_stamp}
end

local function add(value, amount)
  local high, low = 0, 0
  for _, digits in ipairs({value, amount}) do
    local sign, plain = string.match(digits, '^(%-?)(%d+)$')
    if not sign or #plain > 19 then
      return nil
    end
    local factor = sign == '-' and -1 or 1
    high = high + factor * tonumber('0' .. string.sub(plain, 1, -10))
    low = low + factor * tonumber(string.sub(plain, -9))
  end
  high, low = high + math.floor(low / 1000000000), low % 1000000000
  if high > 9223372036 or (high == 9223372036 and low > 854775807) then
    return false
  end
  return high > -9223372037 or (high == -9223372037 and low >= 145224192)
end

local function parts(text)
  local bodies, stream, mark, delay, limit, id =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  local waiting = {bodies = KEYS[tonumber(bodies)], stream = KEYS[tonumber(stream)]}
  waiting.mark, waiting.delay = KEYS[tonumber(mark)], tonumber(delay)
  waiting.limit, waiting.id = tonumber(limit), id
  return waiting
end

local names = {E = 'stream', C = 'hash', L = 'zset'}
local skipped, stands, later = {}, -1, 0
for at = 3, #ARGV - 1, 5 do
  local kind, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
  local number = (at + 2) / 5
  if names[kind] then
    local name = redis.call('TYPE', key).ok
    if name ~= 'none' and name ~= names[kind] then
      return {7, number}
    end
    if kind == 'C' and name == 'hash' then
      local value = redis.call('HGET', key, 'v') or '0'
      local sum = add(value, ARGV[at + 2])
      local is_plain = value == '0' or string.find(value, '^%-?[1-9]%d*$')
      if sum == nil or not is_plain or redis.call('HLEN', key) > 65 then
        return {7, number}
      elseif not sum then
        return {5, number}
      end
    elseif kind == 'L' then
      local waiting = parts(ARGV[at + 4])
      local bodies = redis.call('TYPE', waiting.bodies).ok
      if bodies ~= 'none' and bodies ~= 'hash' then
        return {7, number}
      end
      later = later + 1
      if redis.call('ZCARD', key) + later > waiting.limit then
        return {3, number}
      end
    end
  elseif kind == 'S' or is_late or ARGV[at + 4] ~= '' then
    local name = redis.call('TYPE', key).ok
    if name ~= 'none' and name ~= 'string' then
      return {7, number}
    end
    local held = redis.call('GETRANGE', key, 0, 15)
    local is_ours = #held == 16 and string.byte(held, 1) == 0xC7
    if is_ours and string.byte(held, 2) >= 0x20 then
      return redis.error_reply('NEWERFORMAT the value was written by a newer release')
    end
    local held_stamp = is_ours and struct.unpack('>I8', held, 3) or -1
    local condition = ARGV[at + 4]
    if condition ~= '' then
      local is_live = is_ours and string.byte(held, 2) % 2 == 0
      if tonumber(condition) ~= (is_live and held_stamp or 0) then
        return {4, number}
      end
    end
    if is_late then
      local left = tonumber(ARGV[at + 3]) - math.floor((now - stamp) / 1000)
      skipped[at] = held_stamp >= stamp or (kind ~= 'U' and left < 1)
    elseif kind == 'S' then
      stands = math.max(stands, held_stamp)
    end
  end
end
if stands >= stamp then
  return {0, string.format('%.0f', stands)}
end

redis.call('SET', KEYS[1], text_stamp, 'PX', mark_ms)
local told = {text_stamp}
for at = 3, #ARGV - 1, 5 do
  local kind, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
  local a, b, c = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if (kind == 'S' or kind == 'P') and not skipped[at] then
    local left = tonumber(b)
    if is_late then
      left = left - math.max(0, math.floor((now - stamp) / 1000))
    end
    redis.call('SET', key, a, 'PX', string.format('%.0f', left))
  elseif kind == 'U' and not skipped[at] then
    redis.call('UNLINK', key)
  elseif kind == 'C' then
    redis.call('HINCRBY', key, 'v', a)
    redis.call('PEXPIRE', key, b)
    told[#told + 1] = redis.call('HGET', key, 'v')
  elseif kind == 'E' then
    local mark = KEYS[tonumber(c)]
    local stood = mark and redis.call('GET', mark)
    if stood then
      told[#told + 1] = '=' .. stood
    else
      local place = redis.call('XADD', key, '*', 'm', a, 'd', b)
      if mark then
        redis.call('SET', mark, place, 'PX', mark_ms)
      end
      told[#told + 1] = place
    end
  elseif kind == 'L' then
    local waiting = parts(c)
    local mark, id = waiting.mark, waiting.id
    local stood = mark and redis.call('GET', mark)
      or redis.call('ZSCORE', key, id) and '-'
    if stood then
      told[#told + 1] = '=' .. stood
    else
      local made = is_late and stamp or now
      local due = string.format('%.0f', math.floor(made / 1000) + waiting.delay)
      redis.call('HSET', waiting.bodies, id, cmsgpack.pack({waiting.stream, a, b}))
      redis.call('ZADD', key, due, id)
      if mark then
        redis.call('SET', mark, '-', 'PX', waiting.delay + mark_ms)
      end
      local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
      local ends = string.format('%.0f', tonumber(last) + 604800000)
      redis.call('PEXPIREAT', key, ends)
      redis.call('PEXPIREAT', waiting.bodies, ends)
      told[#told + 1] = '-'
    end
  end
end
local text = table.concat(told, ' ')
redis.call('SET', KEYS[1], text, 'PX', mark_ms)
return {1, text}
