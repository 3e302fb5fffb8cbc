-- Return the submissions that changed last and the jobs that finished last, at one moment.
--
-- ARGV  1 the most jobs to return
-- Returns {submissions, jobs}. A submission is {id, ms since it changed, its counts}, newest first.
-- A job is the summary by its worker (MessagePack), newest last. Expired submissions are left out.

local now, submissions = now_ms(), {}
local changed = redis.call('ZREVRANGE', K.RECENT_SUBMISSIONS, 0, -1, 'WITHSCORES')
for i = 1, #changed, 2 do
  local counts = redis.call('HGETALL', K.SUBMISSION .. changed[i])
  if #counts > 0 then
    submissions[#submissions + 1] = {changed[i], math.max(0, now - changed[i + 1]), counts}
  end
end
return {submissions, redis.call('LRANGE', K.ENDED, -ARGV[1], -1)}
