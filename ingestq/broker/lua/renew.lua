-- Renew the leases of running jobs.
--
-- ARGV  1 lease in ms   then pairs: job id, token
-- Returns the tokens of jobs that the caller no longer owns.

local until_ms = now_ms() + ARGV[1]
local lost = {}
for i = 2, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  if redis.call('GET', K.LEASE .. id) == token then
    redis.call('PEXPIRE', K.LEASE .. id, ARGV[1])
    redis.call('ZADD', K.QUEUE, 'XX', until_ms, id)
  else
    lost[#lost + 1] = token
  end
end
return lost
