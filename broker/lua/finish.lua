-- Finish a job: remove it, record what became of its documents, bury those that failed. All or
-- nothing, and only by the job's present owner, so that every document is counted exactly once.
--
-- KEYS  1 queue    2 payload   3 lease    4 failure count   5 result   6 abort set
--       7 queued bytes         8 submission                 9 failed documents of the submission
--       10 dead letters
-- ARGV  1 job id   2 token     3 result     4 ms to keep the result
--       5 seconds to keep the submission
--       then four lists, each after its length: field and increment of each count; documents that
--       failed; key and letter of each dead letter; keys of dead letters that are out of date
-- Answers 1, or 0 if the caller no longer owns the job.

if redis.call('GET', KEYS[3]) ~= ARGV[2] then
  return 0
end
redis.call('DECRBY', KEYS[7], redis.call('STRLEN', KEYS[2]))
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('SET', KEYS[5], ARGV[3], 'PX', ARGV[4])
redis.call('HDEL', KEYS[8], 'live:' .. ARGV[1])

local at = 5
local function take()
  at = at + 1
  return ARGV[at]
end
for _ = 1, take() do
  redis.call('HINCRBY', KEYS[8], take(), take())
end
redis.call('EXPIRE', KEYS[8], ARGV[5])
for _ = 1, take() do
  redis.call('RPUSH', KEYS[9], take())
end
redis.call('EXPIRE', KEYS[9], ARGV[5])
for _ = 1, take() do
  redis.call('HSET', KEYS[10], take(), take())
end
for _ = 1, take() do
  redis.call('HDEL', KEYS[10], take())
end
return 1
