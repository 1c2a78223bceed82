-- Append an event to its stream, unless its id was published before; atomic.
-- The mark holds the place in the stream; `-` while the event waits for its time. It
-- outlives the event's entry, so a repetition finds it whatever became of that.
-- KEYS[1] stream    the event's stream
-- KEYS[2] mark      remembers the event's id
-- KEYS[3] floor     the stamp of the tenant's last purge
-- ARGV[1] head      the envelope
-- ARGV[2] body      the payload
-- ARGV[3] mark_ms   how long the id is remembered, in milliseconds
-- ARGV[4] made_us   0, or when it was published: what is older than the floor is refused
-- Returns {1, id} appended now; {2, id} published before, and where; {0, floor} nothing
-- changed: the tenant was purged since
-- Expiry: PX ARGV[3] for the mark, anew with each repetition; the stream has none, its
-- length is the janitor's
local place = redis.call('GET', KEYS[2])
if place then
  -- A write, small as it is: who waits for replicas then waits for the first one too.
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {2, place}
end
if ARGV[4] ~= '0' then
  local floor = redis.call('GET', KEYS[3])
  if floor and tonumber(floor) >= tonumber(ARGV[4]) then
    return {0, floor}
  end
end
local id = redis.call('XADD', KEYS[1], '*', 'm', ARGV[1], 'd', ARGV[2])
redis.call('SET', KEYS[2], id, 'PX', ARGV[3])
return {1, id}
