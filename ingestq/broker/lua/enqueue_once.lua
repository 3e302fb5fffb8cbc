-- Put one job on the queue, unless one was under the same key: all or nothing, so that a key is
-- never remembered without its job.
--
-- ARGV  1 key   2 digest of what was asked   3 seconds to remember the key   then those of enqueue
-- Answers {what `offer` answers, submission}; for a key that is known {'duplicate', the submission
-- of the first time}, or {'conflict', ''} if something else was asked then.

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
