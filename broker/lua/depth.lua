-- Count the jobs on the queue at one moment.
--
-- KEYS  1 queue   2 queued bytes   3 dead letters
-- ARGV  1 prefix of leases
-- Answers {ready, deferred, in flight, ms that the oldest ready job has waited, bytes, letters}.
-- A job with a score in the future runs if somebody holds its lease, else it is deferred.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local deferred, in_flight = 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_ms, '+inf')) do
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    in_flight = in_flight + 1
  else
    deferred = deferred + 1
  end
end
local ready = redis.call('ZCOUNT', KEYS[1], '-inf', now_ms)
local oldest = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'WITHSCORES', 'LIMIT', 0, 1)
local waited_ms = oldest[2] and now_ms - oldest[2] or 0
return {ready, deferred, in_flight, waited_ms,
        tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('HLEN', KEYS[3])}
