-- Put a dead letter back on the queue, unless it changed since it was read.
--
-- KEYS  1 dead letters   2 job payload   3 queue   4 queued bytes   5 wake-up list   6 submission
-- ARGV  1 key of the letter   2 the letter as it was read   3 job id   4 payload
--       5 documents in the job   6 seconds to keep the submission
-- Answers 1, or 0 if the letter is gone or another one: its document succeeded or failed anew.
-- The bounds of the queue do not count: what is requeued had been accepted once.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('SET', KEYS[2], ARGV[4], 'NX') then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[3])
  redis.call('INCRBY', KEYS[4], #ARGV[4])
  redis.call('HINCRBY', KEYS[6], 'accepted', ARGV[5])
  redis.call('EXPIRE', KEYS[6], ARGV[6])
  redis.call('RPUSH', KEYS[5], '1')
end
return 1
