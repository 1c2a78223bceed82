-- Take over entries of a group that their consumer has let lie; bury those that were
-- delivered too often. What waits for its next attempt (parked) is left alone until it
-- is due. An entry that was trimmed meanwhile leaves the group and is counted as lost.
-- KEYS[1] stream  the key of the stream
-- KEYS[2] dead     the group's dead letters: a stream
-- KEYS[3] parked   sorted set: what waits, by due time in milliseconds
-- KEYS[4] tally    hash of the group's counts
-- ARGV[1] group  its name
-- ARGV[2] consumer        who takes over
-- ARGV[3] owner           only this consumer's; empty for anybody's, of which ARGV[2]'s
-- own only with an ARGV[4] above 0
-- ARGV[4] min_idle_ms     only what was not touched for so long
-- ARGV[5] start           the first id to look at: "-", an id, or "(" and an id
-- ARGV[6] count           how many to look at, 1 to 1000
-- ARGV[7] max_deliveries  what was delivered so often already is buried
-- ARGV[8] suspect_from    what was delivered so often already is suspected of killing
-- its consumers: it is not counted now, but when its handler begins. 0: these were
-- delivered in an answer that nobody saw, so nothing is counted
-- Returns {next, entries, dead, lost}: where to go on ("" at the end); {id, fields,
-- deliveries, 1 for a suspect} of what is taken over; how many were buried, and how
-- many are gone
-- Expiry: PEXPIRE of 7 days on dead letters, of 30 on the tally
local question = {'XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], ARGV[5], '+', ARGV[6]}
if ARGV[3] ~= '' then
  question[9] = ARGV[3]
end
local pending = redis.pcall(unpack(question))
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then
    return {'', {}, 0, 0}
  end
  return pending
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from = tonumber(ARGV[8])
local taken, again, dead, lost = {}, 0, 0, 0
for _, entry in ipairs(pending) do
  local id, count = entry[1], tonumber(entry[4])
  local due = redis.call('ZSCORE', KEYS[3], KEYS[1] .. '|' .. id)
  -- What is ours was taken on purpose: it is in our hands, or looked for by our name.
  local is_ours = entry[2] == ARGV[2] and ARGV[3] == '' and ARGV[4] == '0'
  if not is_ours and (not due or tonumber(due) <= now) then
    local is_over = from > 0 and count >= tonumber(ARGV[7])
    local is_suspect = from > 0 and count >= from
    local after = math.max((from == 0 or is_suspect) and count or count + 1, 1)
    local found
    -- Before all else: once it has written, a server without memory lets a script end.
    redis.call('ZREM', KEYS[3], KEYS[1] .. '|' .. id)
    if is_over then
      found = redis.call('XRANGE', KEYS[1], id, id)[1]
    else
      found = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', after)[1]
    end
    if not found then
      redis.call('XACK', KEYS[1], ARGV[1], id)
      lost = lost + 1
    elseif is_over then
      local letter = {'XADD', KEYS[2], 'MAXLEN', '~', 100000, '*'}
      for at = 1, math.min(#found[2], 1000) do -- of a foreign entry; ours have four
        letter[#letter + 1] = found[2][at]
      end
      for _, field in ipairs({'_s', KEYS[1], '_i', id, '_n', count, '_r', 'max_deliveries', '_t', now}) do
        letter[#letter + 1] = field
      end
      redis.call(unpack(letter))
      redis.call('XACK', KEYS[1], ARGV[1], id)
      dead = dead + 1
    else
      taken[#taken + 1] = {id, found[2], after, is_suspect and 1 or 0}
      if count > 0 then -- else it was given back before anybody began with it
        again = again + 1
      end
    end
  end
end
if dead > 0 then
  redis.call('PEXPIRE', KEYS[2], 604800000)
  redis.call('HINCRBY', KEYS[4], 'dead', dead)
end
if lost > 0 then
  redis.call('HINCRBY', KEYS[4], 'lost', lost)
end
if again > 0 and from > 0 then
  redis.call('HINCRBY', KEYS[4], 'redelivered', again)
end
if dead + lost + #taken > 0 then
  redis.call('PEXPIRE', KEYS[4], 2592000000)
end
local next_start = ''
if #pending == tonumber(ARGV[6]) then
  next_start = '(' .. pending[#pending][1]
end
return {next_start, taken, dead, lost}
