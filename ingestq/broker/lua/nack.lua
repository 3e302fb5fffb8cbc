-- Return a running job to the queue, after a failure that may pass or unfinished at shutdown.
--
-- ARGV  1 job id  2 token   3 delay in ms     4 '1' if this counts as a try
-- Returns 1, or 0 if the caller no longer owns the job.

local id = ARGV[1]
if redis.call('GET', K.LEASE .. id) ~= ARGV[2] then
  return 0
end
redis.call('DEL', K.LEASE .. id)
redis.call('HDEL', K.JOB_INFO .. id, 'alone')
if ARGV[4] == '1' then
  redis.call('HINCRBY', K.JOB_INFO .. id, 'failures', 1)
end
local submission = redis.call('HGET', K.JOB_INFO .. id, 'submission')
redis.call('HDEL', K.SUBMISSION .. submission, 'live:' .. id)
if ARGV[3] == '0' then
  make_ready(id, now_ms())
else
  redis.call('HSET', K.JOB_INFO .. id, 'deferred', ARGV[3])
  redis.call('ZADD', K.QUEUE, now_ms() + ARGV[3], id)
end
return 1
