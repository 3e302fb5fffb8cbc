-- Put a running job back on the queue: after a failure that may pass, or unfinished at shutdown.
--
-- KEYS  1 queue   2 lease   3 failure count   4 wake-up list   5 submission
-- ARGV  1 job id  2 token   3 delay in ms     4 '1' if this counts as a failure
-- Answers 1, or 0 if the caller no longer owns the job.

if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('DEL', KEYS[2])
redis.call('ZADD', KEYS[1], now_ms + ARGV[3], ARGV[1])
redis.call('HDEL', KEYS[5], 'live:' .. ARGV[1])
if ARGV[4] == '1' then
  redis.call('INCR', KEYS[3])
end
if ARGV[3] == '0' and redis.call('LLEN', KEYS[4]) < 64 then
  redis.call('RPUSH', KEYS[4], '1')
end
return 1
