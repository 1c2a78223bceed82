-- Remove keys of a tenant, except values that are newer than its floor.
-- What carries no stamp (see set_newer.lua) is removed whatever its age.
-- KEYS[1+] key    keys of one tenant and one slot
-- ARGV[1] floor   the stamp of the purge
-- Returns {removed, kept}; a key that is gone already counts as neither
-- Expiry: writes nothing
local floor = tonumber(ARGV[1])
local removed, kept = 0, 0
for i = 1, #KEYS do
  local head = redis.pcall('GETRANGE', KEYS[i], 0, 15)
  local is_sealed = type(head) == 'string' and #head == 16
    and string.byte(head, 1) == 0xC7
  if is_sealed and struct.unpack('>I8', head, 3) > floor then
    kept = kept + 1
  else
    removed = removed + redis.call('UNLINK', KEYS[i])
  end
end
return {removed, kept}
