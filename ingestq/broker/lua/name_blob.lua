-- Return what a new blob is named by.
--
-- ARGV  1 the space of this queue, if it has none yet
-- Returns {its space, the steady clock in ms}.

redis.call('SETNX', K.BLOB_SPACE, ARGV[1])
return {redis.call('GET', K.BLOB_SPACE), steady_ms()}
