-- Remove what nobody needs from one stream of events, and count what that costs.
-- After soft_ms an entry goes once every group has acknowledged it; after hard_ms it goes
-- whoever has not, counted as lost for each such group, those pending included: they are
-- acknowledged, so that nobody else counts them again. Entries are counted by removing
-- them interval by interval, between the places of the groups; no body is read but the
-- first. XTRIM with ~ keeps the work bounded, = takes the rest of one node: ~ leaves it.
-- With sweep also: consumers idle for idle_ms go if nothing is pending under their
-- names, and a stream that has been empty for as long and has no group goes altogether:
-- a group that went with it would not know any more where it had been.
-- A group that holds entries back while nobody of it has been there for stale_ms is
-- named once; whoever is missing for how long stands in its tally as stale:<stream>.
-- The time is the server's. XTRIM and XACK need no memory and come before what does.
-- KEYS[1] stream    the key of the stream
-- KEYS[2] tallies   what the keys of its tenant's tallies begin with
-- ARGV[1] soft_ms   how long an entry is kept in any case
-- ARGV[2] hard_ms   how long it is kept at most
-- ARGV[3] limit     how many entries one call removes, about: up to three times as many
-- ARGV[4] idle_ms   after what time consumers and empty streams go
-- ARGV[5] stale_ms  after what time a group that holds back is named
-- ARGV[6] sweep     '1' to look for idle consumers too
-- Returns {trimmed, lost, held_back, next_ms, is_more, stale}: how many are gone; group,
-- count, group, count ... of those lost; whether entries wait only for a group; ms until
-- the next has had its time (0 if there is more to do now, -1 if there is no stream any
-- more); whether the limit was reached; names of stale groups
-- Expiry: none for a stream, which would take unacknowledged events along; PEXPIRE of 30
-- days with each write to a tally
local stream, limit = KEYS[1], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local soft, hard = tonumber(ARGV[1]), tonumber(ARGV[2])
local trimmed, is_more, lost, stale = 0, false, {}, {}

local function table_of(flat)
  local found = {}
  for at = 1, #flat, 2 do
    found[flat[at]] = flat[at + 1]
  end
  return found
end

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function is_before(one, other)
  local ms, seq = parts(one)
  local other_ms, other_seq = parts(other)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

local function after(id)
  local ms, seq = parts(id)
  if seq >= 2 ^ 53 then
    return string.format('%.0f-0', ms + 1)
  end
  return string.format('%.0f-%.0f', ms, seq + 1)
end

local function first_id()
  local found = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return found and found[1]
end

-- Remove what is before an id; false if that is too much for one call.
local function trim_to(id)
  local count = redis.call('XTRIM', stream, 'MINID', '~', id, 'LIMIT', limit)
  local again = 0
  if count > 0 then
    again = redis.call('XTRIM', stream, 'MINID', '~', id, 'LIMIT', limit)
  end
  local is_done = again == 0
  count = count + again
  if is_done then
    count = count + redis.call('XTRIM', stream, 'MINID', '=', id)
  end
  trimmed = trimmed + count
  return count, is_done
end

-- Acknowledge what of a group is pending before an id; how many, and whether all.
local function give_up(group, id)
  local count = 0
  while count < limit do
    local page = redis.call('XPENDING', stream, group, '-', '(' .. id, 1000)
    if #page == 0 then
      return count, true
    end
    local ids = {}
    for at, entry in ipairs(page) do
      ids[at] = entry[1]
    end
    redis.call('XACK', stream, group, unpack(ids))
    count = count + #page
  end
  return count, false
end

local function tally_of(group)
  if #group <= 64 and string.match(group, '^[%w][%w_.-]*$') then
    return KEYS[2] .. group
  end
  return nil
end

-- Since when nobody of a group has been there, and whether that was told.
local function watch(group, is_holding)
  local tally, field = tally_of(group), 'stale:' .. stream
  if not tally then
    return
  end
  if not is_holding then
    redis.call('HDEL', tally, field)
    return
  end
  local held, seen = redis.call('HGET', tally, field), nil
  local since, told = string.match(held or '', '^(%d+) (%d)$')
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = table_of(flat)
    local idle = consumer.inactive or -1
    seen = math.max(seen or 0, now - (idle >= 0 and idle or consumer.idle))
  end
  since = seen or tonumber(since or now)
  local is_stale = now - since >= tonumber(ARGV[5])
  if seen and not is_stale then
    redis.call('HDEL', tally, field)
    return
  end
  if is_stale and told ~= '1' then
    stale[#stale + 1] = group
  end
  local value = string.format('%.0f %d', since, is_stale and 1 or 0)
  if value ~= held and type(redis.pcall('HSET', tally, field, value)) == 'number' then
    redis.call('PEXPIRE', tally, 2592000000)
  end
end

-- Let consumers go that have not been there and hold nothing; how much others hold.
local function sweep(group)
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = table_of(flat)
    if consumer.pending == 0 and consumer.idle > tonumber(ARGV[4]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    end
  end
end

if redis.call('EXISTS', stream) == 0 then
  return {0, {}, 0, -1, 0, {}}
end
local groups = {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  groups[#groups + 1] = table_of(flat)
end
table.sort(groups, function(one, other)
  return is_before(one['last-delivered-id'], other['last-delivered-id'])
end)
local soft_id = string.format('%.0f-0', math.max(now - soft, 0))
local hard_id = string.format('%.0f-0', math.max(now - hard, 0))

-- Past the hard limit, from the group that is furthest behind to the one in front.
local first, is_done, count = first_id(), true, 0
local is_over = first and is_before(first, hard_id)
local behind = {}
for _, group in ipairs(groups) do
  local place = after(group['last-delivered-id'])
  if is_over and is_done and trimmed < limit and is_before(place, hard_id) then
    count, is_done = trim_to(place)
    for name in pairs(behind) do
      behind[name] = behind[name] + count
    end
    if is_done then
      behind[group.name] = 0
    end
  end
end
if is_over and is_done and trimmed < limit then
  count, is_done = trim_to(hard_id)
  for name in pairs(behind) do
    behind[name] = behind[name] + count
  end
end
first = first_id()
is_more = first and is_before(first, hard_id) or false
local gone_id = is_more and first or hard_id
local floor
for _, group in ipairs(groups) do
  local name = group.name
  local pending = redis.call('XPENDING', stream, name)
  count = behind[name] or 0
  if pending[1] > 0 and is_before(pending[2], gone_id) then
    local given_up, is_all = give_up(name, gone_id)
    count = count + given_up
    is_more = is_more or not is_all
    pending = redis.call('XPENDING', stream, name)
  end
  if count > 0 then
    lost[#lost + 1] = name
    lost[#lost + 1] = count
    local tally = tally_of(name)
    if tally then
      redis.call('HINCRBY', tally, 'lost', count)
      redis.call('PEXPIRE', tally, 2592000000)
    end
  end
  group.place = pending[1] > 0 and pending[2] or after(group['last-delivered-id'])
  if not floor or is_before(group.place, floor) then
    floor = group.place
  end
end

-- Past the soft limit: up to the slowest group.
if first and not is_more then
  local cut = soft_id
  if floor and is_before(floor, soft_id) then
    cut = floor
  end
  if is_before(first, cut) then
    count, is_done = trim_to(cut)
    is_more = not is_done
    first = first_id()
  end
end
if is_more then
  return {trimmed, lost, 0, 0, 1, stale}
end

local is_held = first and is_before(first, soft_id)
for _, group in ipairs(groups) do
  watch(group.name, is_held and not is_before(first, group.place))
  if ARGV[6] == '1' then
    sweep(group.name)
  end
end
if first then
  local ms = parts(first)
  local next_ms = math.max(ms + (is_held and hard or soft) - now, 0)
  return {trimmed, lost, is_held and 1 or 0, next_ms, 0, stale}
end
local last_ms = parts(table_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id'])
local left_ms = last_ms + tonumber(ARGV[4]) - now
if left_ms > 0 then
  return {trimmed, lost, 0, math.max(left_ms, 1000), 0, stale}
end
if #groups == 0 then
  redis.call('UNLINK', stream)
  return {trimmed, lost, 0, -1, 0, stale}
end
return {trimmed, lost, 0, tonumber(ARGV[4]), 0, stale}
