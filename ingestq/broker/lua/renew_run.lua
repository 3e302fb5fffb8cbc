-- Renew the lease of a run, and replace its record. An expired lease is renewed, too, unless the
-- run was ended because of that.
--
-- ARGV  1 entry   2 token   3 record of the run   4 lease in ms
-- Returns 1, or 0 if the caller no longer owns the run.

if redis.call('HGET', K.RUN .. ARGV[1], 'token') ~= ARGV[2] then
  return 0
end
redis.call('HSET', K.RUN .. ARGV[1], 'record', ARGV[3])
redis.call('SET', K.RUN_LEASE .. ARGV[1], ARGV[2], 'PX', ARGV[4])
return 1
