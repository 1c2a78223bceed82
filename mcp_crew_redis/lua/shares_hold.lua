-- Divide numbered work among the processes that live: beat, drop the dead, give up, take.
-- A member whose last beat is older than the lease is dead: its numbers are free. Each
-- member may own count / members numbers, the remainder one more each: those who own the
-- most already, so that nothing moves without need. A member takes free numbers only; of
-- what it owns too many it is told, to finish that work before it gives numbers up.
-- Calls of one member are numbered: one that was overtaken by a later one does nothing.
-- Every loop is bounded by 1,000 members and 256 numbers.
-- KEYS[1] shares     hash: m:<member> = "<beat in ms> <turn>", p:<number> = its owner
-- ARGV[1] member     who calls
-- ARGV[2] turn       number of this call, growing with each of this member's
-- ARGV[3] lease_ms   how long a beat counts, in milliseconds
-- ARGV[4] count      how many numbers there are, from 0; 0 for membership alone
-- ARGV[5] leaving    '1' to give up everything and be a member no longer
-- ARGV[6+] given_up  numbers that this member does not work on any more
-- Returns {members, owned, surplus}: the names of all that live, the numbers that the
-- caller owns, and how many of those are too many
-- Expiry: PEXPIRE ten leases with each call
local key, me, turn = KEYS[1], ARGV[1], tonumber(ARGV[2])
local lease, count = tonumber(ARGV[3]), tonumber(ARGV[4])
if count > 256 then
  return redis.error_reply('SHARES at most 256 numbers')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields = redis.call('HGETALL', key)
local owned_by, owner_of, gone, living = {}, {}, {}, 0
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'm:' then
    local name = string.sub(fields[at], 3)
    local beat, last = string.match(fields[at + 1], '^(%d+) (%d+)$')
    if name == me then
      if last and tonumber(last) > turn then
        return redis.error_reply('SHARES overtaken by a later call')
      end
    elseif beat and now - tonumber(beat) <= lease then
      owned_by[name] = 0
      living = living + 1
    else
      gone[#gone + 1] = fields[at]
    end
  end
end
if ARGV[5] ~= '1' then
  if living >= 1000 then
    return redis.error_reply('SHARES at most 1000 members')
  end
  owned_by[me] = 0
  living = living + 1
else
  gone[#gone + 1] = 'm:' .. me
end
local left = {}
for at = 6, #ARGV do
  left[ARGV[at]] = true
end
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'p:' then
    local number, owner = string.sub(fields[at], 3), fields[at + 1]
    local is_over = owner == me and (left[number] or tonumber(number) >= count)
    if is_over or not owned_by[owner] then
      gone[#gone + 1] = fields[at]
    else
      owner_of[number] = owner
      owned_by[owner] = owned_by[owner] + 1
    end
  end
end
if #gone > 0 then
  redis.call('HDEL', key, unpack(gone))
end
local members = {}
for name in pairs(owned_by) do
  members[#members + 1] = name
end
if ARGV[5] == '1' then
  return {members, {}, 0}
end
local mine, before = owned_by[me], 0
for name, owned in pairs(owned_by) do
  if owned > mine or (owned == mine and name < me) then
    before = before + 1
  end
end
local share = math.floor(count / living)
if before < count % living then
  share = share + 1
end
local writes, owned = {'m:' .. me, string.format('%d %d', now, turn)}, {}
for number = 0, count - 1 do
  local name = tostring(number)
  if owner_of[name] == nil and mine < share and not left[name] then
    writes[#writes + 1] = 'p:' .. name
    writes[#writes + 1] = me
    owner_of[name] = me
    mine = mine + 1
  end
  if owner_of[name] == me then
    owned[#owned + 1] = number
  end
end
redis.call('HSET', key, unpack(writes))
redis.call('PEXPIRE', key, lease * 10)
return {members, owned, math.max(0, mine - share)}
