-- The submissions that changed last, and the jobs that ended last, at one moment.
--
-- ARGV  1 how many of those jobs
-- Answers {submissions, jobs}: a submission is {id, ms since it changed, its counts}, the newest
-- first; a job what its worker told of it (MessagePack), the newest last. Submissions that were
-- forgotten since are left out.

local now, submissions = now_ms(), {}
local changed = redis.call('ZREVRANGE', K.RECENT_SUBMISSIONS, 0, -1, 'WITHSCORES')
for i = 1, #changed, 2 do
  local counts = redis.call('HGETALL', K.SUBMISSION .. changed[i])
  if #counts > 0 then
    submissions[#submissions + 1] = {changed[i], now - changed[i + 1], counts}
  end
end
return {submissions, redis.call('LRANGE', K.ENDED, -ARGV[1], -1)}
