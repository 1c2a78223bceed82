-- Read a value's header and how long its key still lives; atomic, one key.
-- KEYS[1] key   the value's key
-- Returns {header, pttl}: the first 16 bytes at most, empty when the key is absent; and
-- milliseconds, -1 without expiry, -2 when the key is absent
-- Expiry: read only
return {redis.call('GETRANGE', KEYS[1], 0, 15), redis.call('PTTL', KEYS[1])}
