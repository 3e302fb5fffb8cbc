-- Put one job on the queue under an idempotency key, unless the key was used before. All or
-- nothing, so that a key is never remembered without its job.
--
-- ARGV  1 key   2 digest of the request   3 seconds to remember the key   then those of enqueue
-- Returns {answer of `offer`, submission}. If the key was used before, returns {'duplicate', its
-- submission}, or {'conflict', ''} if that was for a different request.

local name = K.IDEMPOTENCY .. ARGV[1]
local digest, submission = unpack(redis.call('HMGET', name, 'digest', 'submission'))
if digest then
  if digest == ARGV[2] then
    return {'duplicate', submission}
  end
  return {'conflict', ''}
end
local answer = offer(unpack(ARGV, 4))
if answer == 'accepted' or answer == 'duplicate' then
  redis.call('HSET', name, 'digest', ARGV[2], 'submission', ARGV[9])
  redis.call('EXPIRE', name, ARGV[3])
end
return {answer, ARGV[9]}
