-- Claim up to n jobs that are due, under a lease with a fencing token, on the clock of Redis.
--
-- KEYS  1 queue   2 fence counter
-- ARGV  1 n       2 lease in ms     3 prefix of payloads   4 prefix of leases
--       5 prefix of failure counts
-- Answers one {job id, token, payload, failures} a job. A claimed job's score moves to the end of
-- its lease: until then nobody else sees it, and if its owner dies it comes back by itself.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'LIMIT', 0, ARGV[1])) do
  local payload = redis.call('GET', ARGV[3] .. id)
  if not payload then
    redis.call('ZREM', KEYS[1], id)
  else
    local token = redis.call('INCR', KEYS[2])
    if redis.call('SET', ARGV[4] .. id, token, 'NX', 'PX', ARGV[2]) then
      local failures = redis.call('GET', ARGV[5] .. id) or '0'
      claimed[#claimed + 1] = {id, token, payload, tonumber(failures)}
      redis.call('ZADD', KEYS[1], now_ms + ARGV[2], id)
    else
      -- The lease ends within this very millisecond, or outlives the score: look right after it.
      local left_ms = redis.call('PTTL', ARGV[4] .. id)
      redis.call('ZADD', KEYS[1], now_ms + math.max(left_ms, 0) + 1, id)
    end
  end
end
return claimed
