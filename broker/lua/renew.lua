-- Renew the leases of running jobs.
--
-- KEYS  1 queue
-- ARGV  1 lease in ms   2 prefix of leases   then pairs: job id, token
-- Answers the tokens of jobs that the caller no longer owns.

local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local lost = {}
for i = 3, #ARGV, 2 do
  local lease = ARGV[2] .. ARGV[i]
  if redis.call('GET', lease) == ARGV[i + 1] then
    redis.call('PEXPIRE', lease, ARGV[1])
    redis.call('ZADD', KEYS[1], 'XX', until_ms, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i + 1]
  end
end
return lost
