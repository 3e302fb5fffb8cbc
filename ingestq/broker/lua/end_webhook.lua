-- Record the result of an attempt to deliver a message, unless another worker has claimed it since.
--
-- ARGV  1 target   2 id   3 token   4 'delivered', 'failed', 'gone', or the ms until the next attempt
--       5 why it failed   6 digest of the URL
-- 'gone' ends all other messages of the target as well. Returns 1, or 0 if the lease was lost.

local target, id, result = ARGV[1], ARGV[2], ARGV[4]
local state = K.WEBHOOK_STATE .. target
if redis.call('HGET', K.WEBHOOK .. id, 'token') ~= ARGV[3] then
  return 0
end
if result == 'delivered' then
  delete_webhook(target, id)
  redis.call('HINCRBY', state, 'delivered', 1)
  redis.call('HDEL', state, 'error')
  return 1
end
redis.call('HSET', K.WEBHOOK .. id, 'error', ARGV[5])
redis.call('HSET', state, 'error', ARGV[5])
if result == 'failed' then
  fail_webhook(target, id)
elseif result == 'gone' then
  redis.call('HSET', state, 'gone', ARGV[6])
  for _, each in ipairs(redis.call('ZRANGE', K.WEBHOOKS_WAITING .. target, 0, -1)) do
    fail_webhook(target, each)
  end
else
  redis.call('HDEL', K.WEBHOOK .. id, 'token')
  redis.call('ZADD', K.WEBHOOKS_DUE .. target, steady_ms() + result, id)
end
return 1
