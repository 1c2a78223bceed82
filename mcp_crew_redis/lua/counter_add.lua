-- Add to a counter once per writer and sequence; atomic, one hash.
-- The hash holds `v`, the value, and per writer `w:<writer>` = "<sequence> <value after
-- it> <second of it>". A writer that joins drops those that were idle for 24 h, and the
-- one idle longest when there are 64: only then the hash is read as a whole, and it has
-- at most 65 fields. Numbers beyond 2^53 stay text: a number of Lua would round them.
-- KEYS[1] counter   the hash
-- KEYS[2] floor     the stamp of the tenant's last purge
-- ARGV[1] writer    who adds, unique to the life of one process
-- ARGV[2] sequence  1 to 2^53 - 1, above every earlier one of this writer
-- ARGV[3] delta     a signed 64-bit integer
-- ARGV[4] ttl_ms    time to live in milliseconds, over 0
-- ARGV[5] made_us   0, or when the delta was made: what is older than the floor is refused
-- Returns {1, value} added now; {2, value} added by an earlier sending, the value it had
-- then; and with nothing changed: {0} it would leave 64 bits, {-1} a later sequence of
-- this writer was seen, {-2} the hash is no counter, {-3, floor} the tenant was purged
-- since
-- Expiry: PEXPIRE ARGV[4] with each addition
local field = 'w:' .. ARGV[1]
local record = redis.call('HGET', KEYS[1], field)
if record then
  local sequence, value = string.match(record, '^(%d+) (%-?%d+) %d+$')
  if not sequence then
    return {-2}
  end
  if sequence == ARGV[2] then
    return {2, value}
  end
  if tonumber(sequence) > tonumber(ARGV[2]) then
    return {-1}
  end
end
if ARGV[5] ~= '0' then
  local floor = redis.call('GET', KEYS[2])
  if floor and tonumber(floor) >= tonumber(ARGV[5]) then
    return {-3, floor}
  end
end
local count = record and 0 or redis.call('HLEN', KEYS[1])
if count > 65 then
  return {-2}
end

local added = redis.pcall('HINCRBY', KEYS[1], 'v', ARGV[3])
if type(added) == 'table' then
  if string.find(added.err, 'overflow', 1, true) then
    return {0}
  elseif string.find(added.err, 'not an integer', 1, true) then
    return {-2}
  end
  return added
end

local now = redis.call('TIME')[1]
if count > 1 then
  local fields = redis.call('HGETALL', KEYS[1])
  local idle, oldest, oldest_at, kept = {}, nil, nil, 0
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'w:' then
      local at = tonumber(string.match(fields[i + 1], ' (%d+)$') or 0)
      if at < now - 86400 then
        idle[#idle + 1] = fields[i]
      else
        kept = kept + 1
        if not oldest_at or at < oldest_at then
          oldest, oldest_at = fields[i], at
        end
      end
    end
  end
  if kept >= 64 then
    idle[#idle + 1] = oldest
  end
  if #idle > 0 then
    redis.call('HDEL', KEYS[1], unpack(idle))
  end
end

local value = string.format('%.0f', added)
if added >= 9007199254740992 or added <= -9007199254740992 then
  value = redis.call('HGET', KEYS[1], 'v')
end
redis.call('HSET', KEYS[1], field, ARGV[2] .. ' ' .. value .. ' ' .. now)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1, value}
