-- Return the keys of dead letters that are older than they may be, oldest first.
--
-- ARGV  1 age in ms of the steady clock   2 the most keys to return

return redis.call('ZRANGEBYSCORE', K.DEAD_TIMES, '-inf', steady_ms() - ARGV[1], 'LIMIT', 0, ARGV[2])
