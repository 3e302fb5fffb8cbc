-- Let the messages of a target be tried at once, also those that were not to be tried any more; and
-- let it be told again if it had asked not to be. Those that are being delivered are left alone.
--
-- ARGV  1 target
-- Returns the number of messages.

local target, now = ARGV[1], steady_ms()
local waiting, failed = K.WEBHOOKS_WAITING .. target, K.WEBHOOKS_FAILED .. target
local retried = 0
redis.call('HDEL', K.WEBHOOK_STATE .. target, 'gone')
local function retry(ids)
  for _, id in ipairs(ids) do
    if redis.call('HEXISTS', K.WEBHOOK .. id, 'token') == 0 then
      if redis.call('HGET', K.WEBHOOK .. id, 'attempts') ~= '0' or redis.call('ZSCORE', failed, id) then
        redis.call('HSET', K.WEBHOOK .. id, 'attempts', 0, 'retried', 1)
      end
      redis.call('ZADD', waiting, redis.call('ZSCORE', waiting, id) or now, id)
      redis.call('ZADD', K.WEBHOOKS_DUE .. target, now, id)
      redis.call('ZREM', failed, id)
      retried = retried + 1
    end
  end
end
retry(redis.call('ZRANGE', waiting, 0, -1))
retry(redis.call('ZRANGE', failed, 0, -1))
return retried
