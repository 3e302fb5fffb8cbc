-- Issue consecutive versions: larger than all that were issued or queued before, whatever the clock
-- does.
--
-- ARGV  1 how many
-- Returns the first of them.

local last, first = unpack(redis.call('HMGET', K.VERSIONS, 'last', 'first'))
local version = math.max(now_us(), V.FIRST_ISSUED, (tonumber(last) or 0) + 1)
redis.call('HSET', K.VERSIONS, 'last', version + ARGV[1] - 1, 'first', first or version)
return version
