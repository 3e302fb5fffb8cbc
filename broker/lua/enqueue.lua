-- Put one job on the queue, in one step.
--
-- KEYS  1 job payload   2 result   3 queue   4 queued bytes   5 wake-up list   6 submission
-- ARGV  1 job id        2 payload  3 bound in jobs   4 bound in bytes   5 documents in the job
--       6 seconds to keep the submission
-- Answers 'accepted', 'duplicate' (the job waits, runs or has just finished) or 'full'.
-- The job gets no time to live. One job larger than the byte bound is let in when nothing waits.

if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  return 'duplicate'
end

local queued_bytes = tonumber(redis.call('GET', KEYS[4]) or '0')
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[3])
    or (queued_bytes > 0 and queued_bytes + #ARGV[2] > tonumber(ARGV[4])) then
  return 'full'
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[3], now_ms, ARGV[1])
redis.call('INCRBY', KEYS[4], #ARGV[2])
redis.call('HINCRBY', KEYS[6], 'accepted', ARGV[5])
redis.call('EXPIRE', KEYS[6], ARGV[6])
-- Idle workers block on the list; more tokens than there can be idle workers are of no use.
if redis.call('LLEN', KEYS[5]) < 64 then
  redis.call('RPUSH', KEYS[5], '1')
end
return 'accepted'
