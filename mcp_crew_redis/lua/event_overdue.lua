-- Make a dead letter of an event that waited too long outside Redis, unless its mark
-- says that it was published after all. It gets a mark itself: a repetition changes
-- nothing.
-- KEYS[1] dead      the dead letters of no group in particular: a stream
-- KEYS[2] tally     hash of their counts
-- KEYS[3] mark      remembers the event's id
-- KEYS[4] floor     the stamp of the tenant's last purge
-- ARGV[1] stream    the key of the stream that it was for
-- ARGV[2] head      the envelope
-- ARGV[3] body      the payload
-- ARGV[4] reason    why, as text
-- ARGV[5] mark_ms   how long the id is remembered, in milliseconds
-- ARGV[6] made_us   when it was published: what is older than the floor is refused
-- Returns {1, id} a dead letter now; {2, place} it was published, or is one already; {0, floor}
-- nothing changed: the tenant was purged since
-- Expiry: PEXPIRE of 7 days on dead letters, of 30 on the tally; PX ARGV[5] for the mark
local place = redis.call('GET', KEYS[3])
if place then
  return {2, place}
end
local floor = redis.call('GET', KEYS[4])
if floor and tonumber(floor) >= tonumber(ARGV[6]) then
  return {0, floor}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 100000, '*', 'm', ARGV[2],
  'd', ARGV[3], '_s', ARGV[1], '_i', '', '_n', 0, '_r', ARGV[4], '_t', now)
redis.call('PEXPIRE', KEYS[1], 604800000)
redis.call('HINCRBY', KEYS[2], 'dead', 1)
redis.call('PEXPIRE', KEYS[2], 2592000000)
redis.call('SET', KEYS[3], '-', 'PX', ARGV[5])
return {1, id}
