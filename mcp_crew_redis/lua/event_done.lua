-- Acknowledge entries and remember their events as handled, in one step.
-- KEYS[1] stream  the key of the stream
-- KEYS[2+] seen   the keys that remember, one for each entry
-- ARGV[1] group  its name
-- ARGV[2] ttl_ms  for how long they are remembered
-- ARGV[3+] ids    entry ids, in the order of the keys, at most 500
-- Returns how many were pending
-- Expiry: PX ARGV[2] on each key that remembers
local count = 0
for i = 3, #ARGV do
  -- First, so that a server without memory lets the script go on.
  count = count + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('SET', KEYS[i - 1], '1', 'PX', ARGV[2])
end
return count
