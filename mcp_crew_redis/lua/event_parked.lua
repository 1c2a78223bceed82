-- Look which entries of a group are due for their next attempt.
-- KEYS[1] parked  sorted set: what waits, by due time in milliseconds
-- ARGV[1] count   how many to give at most
-- Returns {members, wait_ms}: what is due, and how long until the next that is not;
-- -1 when nothing else waits
-- Expiry: none is changed
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, later[2] and later[2] - now or -1}
