-- Say that entries are being worked on: nobody takes them over meanwhile.
-- KEYS[1] stream  the key of the stream
-- ARGV[1] group  its name
-- ARGV[2] consumer  who works on them; what was taken over from it is left alone
-- ARGV[3] idle_ms   0; or as if they had been left alone for so long: they may be taken
-- ARGV[4] bump      what is added to the number of their deliveries: 1, 0 or -1
-- ARGV[5] ids       entry ids, separated by spaces, at most 1000
-- Returns the ids that are not this consumer's any more
-- Expiry: none is changed
local gone = {}
for id in string.gmatch(ARGV[5], '%S+') do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])
  if pending.err or not pending[1] then
    gone[#gone + 1] = id
  else
    local count = math.max(pending[1][4] + ARGV[4], 0)
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'RETRYCOUNT', count, 'JUSTID')
  end
end
return gone
