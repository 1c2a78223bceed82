-- Give dead letters back to the streams they came from, each as a new entry with the
-- same envelope and payload; it leaves the dead letters in the same step. One that names
-- no stream of the tenant, or holds no event of ours, stays where it is.
-- XDEL comes before XADD: a server without memory (OOM) would refuse to begin with that,
-- and as much is free afterwards as before.
-- KEYS[1] dead     the group's dead letters: a stream
-- ARGV[1] streams  what the keys of the tenant's streams begin with
-- ARGV[2+] ids     of dead letters, at most 256
-- Returns how many were given back
-- Expiry: none for the streams, whose retention is the janitor's; that of the dead letters
-- stays as it is
local count = 0
for at = 2, #ARGV do
  local found = redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1]
  local fields, entry = {}, {}
  for name = 1, found and #found[2] or 0, 2 do
    local value = found[2][name + 1]
    fields[found[2][name]] = value
    if string.sub(found[2][name], 1, 1) ~= '_' then
      entry[#entry + 1] = found[2][name]
      entry[#entry + 1] = value
    end
  end
  local stream = fields._s or ''
  local is_ours = string.sub(stream, 1, #ARGV[1]) == ARGV[1]
    and string.find(stream, ':', #ARGV[1] + 1, true) ~= nil
  local kind = is_ours and redis.call('TYPE', stream).ok
  if fields.m and fields.d and (kind == 'stream' or kind == 'none') then
    redis.call('XDEL', KEYS[1], ARGV[at])
    redis.call('XADD', stream, '*', unpack(entry))
    count = count + 1
  end
end
return count
