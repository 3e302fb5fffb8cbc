-- Acknowledge a job: delete it, record the outcomes of its documents, and dead-letter those that
-- failed. All or nothing, and only by the job's present owner, so that every document is counted
-- exactly once.
--
-- ARGV  1 job id   2 token     3 result     4 ms to keep the result
--       5 seconds to keep the submission   6 summary of the job (MessagePack)
--       then four lists, each after its length: field and increment of each count; failed
--       documents; key and content of each new dead letter; keys of outdated dead letters
-- Returns the contents of the dead letters that were replaced or deleted; nil if the caller no
-- longer owns the job.

local id = ARGV[1]
if redis.call('GET', K.LEASE .. id) ~= ARGV[2] then
  return nil
end
local lane, bytes, submission = unpack(info_of(id, 'lane', 'bytes', 'submission'))
local counts, failed = K.SUBMISSION .. submission, K.FAILED_DOCUMENTS .. submission
redis.call('HINCRBY', K.HELD, lane .. ':jobs', -1)
redis.call('HINCRBY', K.HELD, lane .. ':bytes', -bytes)
redis.call('DEL', K.JOB .. id, K.JOB_INFO .. id, K.LEASE .. id)
redis.call('ZREM', K.QUEUE, id)
redis.call('HDEL', counts, 'live:' .. id)
redis.call('SET', K.RESULT .. id, ARGV[3], 'PX', ARGV[4])
if redis.call('RPUSH', K.ENDED, ARGV[6]) >= 2 * RECENT then
  redis.call('LTRIM', K.ENDED, -RECENT, -1)   -- not at every job, to save time
end

local at = 6
local function take()
  at = at + 1
  return ARGV[at]
end
local followed = submission ~= ''
if followed then
  redis.call('HINCRBY', counts, 'jobs', -1)
  note_change(submission, now_ms())
end
for _ = 1, take() do
  local field, n = take(), take()
  if followed then
    redis.call('HINCRBY', counts, field, n)
  end
end
redis.call('EXPIRE', counts, ARGV[5])
local failures = tonumber(take())
for _ = 1, failures do
  local document = take()
  if followed then
    redis.call('RPUSH', failed, document)
  end
end
if failures > 0 then
  redis.call('EXPIRE', failed, ARGV[5])
end
local outdated = {}
local function note_outdated(key)
  outdated[#outdated + 1] = redis.call('HGET', K.DEAD, key) or nil
end
for _ = 1, take() do
  local key = take()
  note_outdated(key)
  redis.call('HSET', K.DEAD, key, take())
  redis.call('ZADD', K.DEAD_TIMES, now_ms(), key)
end
for _ = 1, take() do
  local key = take()
  note_outdated(key)
  delete_dead_letter(key)
end
return outdated
