-- Acknowledge a job: delete it, record the outcomes of its documents, and dead-letter those that
-- failed. All or nothing, and only by the job's present owner, so that every document is counted
-- exactly once.
--
-- ARGV  1 job id   2 token     3 result     4 ms to keep the result
--       5 seconds to keep the submission after its last job   6 summary of the job (MessagePack)
--       7 seconds to keep its list of warnings after that   8 the most warnings in that list
--       then five lists, each after its length: field and increment of each count; failed
--       documents; warnings; key, content, what is held back (or empty) and version of each new dead
--       letter; key of each dead letter that is out of date, and version that succeeded
--       If webhooks are configured, three more lists: targets that are told of each dead letter,
--       what each new dead letter says to them, and targets that are told of a finished submission;
--       and the beginning of the ids of their messages
-- A dead letter of a newer version stays as it is.
-- Returns the contents of the dead letters that were replaced or deleted, or not written; nil if
-- the caller no longer owns the job.

local id = ARGV[1]
if redis.call('GET', K.LEASE .. id) ~= ARGV[2] then
  return nil
end
local lane, bytes, submission = unpack(info_of(id, 'lane', 'bytes', 'submission'))
local counts, failed = K.SUBMISSION .. submission, K.FAILED_DOCUMENTS .. submission
local warnings = K.DOCUMENT_WARNINGS .. submission
redis.call('HINCRBY', K.HELD, lane .. ':jobs', -1)
redis.call('HINCRBY', K.HELD, lane .. ':bytes', -bytes)
redis.call('DEL', K.JOB .. id, K.JOB_INFO .. id, K.LEASE .. id)
redis.call('ZREM', K.QUEUE, id)
redis.call('HDEL', counts, 'live:' .. id)
redis.call('SET', K.RESULT .. id, ARGV[3], 'PX', ARGV[4])
if redis.call('RPUSH', K.ENDED, ARGV[6]) >= 2 * RECENT then
  redis.call('LTRIM', K.ENDED, -RECENT, -1)   -- not at every job, to save time
end

local at = 8
local function take()
  at = at + 1
  return ARGV[at]
end
local followed, jobs_left = submission ~= '', 0
if followed then
  jobs_left = redis.call('HINCRBY', counts, 'jobs', -1)
  note_change(submission, now_ms())
end
for _ = 1, take() do
  local field, n = take(), take()
  if followed then
    redis.call('HINCRBY', counts, field, n)
  end
end
local failures = tonumber(take())
for _ = 1, failures do
  local document = take()
  if followed then
    redis.call('RPUSH', failed, document)
  end
end
local listed = redis.call('LLEN', warnings)
for _ = 1, take() do
  local warning = take()
  if followed and listed < tonumber(ARGV[8]) then
    listed = redis.call('RPUSH', warnings, warning)
  end
end
if jobs_left <= 0 then
  redis.call('EXPIRE', counts, ARGV[5])
  redis.call('EXPIRE', failed, ARGV[5])
  redis.call('EXPIRE', warnings, ARGV[7])
end
-- Return whether a dead letter is of a newer version. Versions of different scales do not compare.
local function is_newer(key, version)
  version = tonumber(version)
  local other = tonumber(redis.call('HGET', K.DEAD_VERSIONS, key) or '0')
  return (other >= V.FIRST_ISSUED) == (version >= V.FIRST_ISSUED) and other > version
end
local outdated, written = {}, {}
for i = 1, take() do
  local key, content, held, version = take(), take(), take(), take()
  if is_newer(key, version) then
    outdated[#outdated + 1] = content
  else
    outdated[#outdated + 1] = redis.call('HGET', K.DEAD, key) or nil
    written[#written + 1] = i
    redis.call('HSET', K.DEAD, key, content)
    redis.call('HSET', K.DEAD_VERSIONS, key, version)
    redis.call('ZADD', K.DEAD_TIMES, steady_ms(), key)
    if held == '' then
      release(key)
    else
      redis.call('HSET', K.HELD_BACK, key, held)
      redis.call('HSETNX', K.HELD_SINCE, key, now_ms())
    end
  end
end
for _ = 1, take() do
  local key, version = take(), take()
  if not is_newer(key, version) then
    outdated[#outdated + 1] = redis.call('HGET', K.DEAD, key) or nil
    delete_dead_letter(key)
  end
end
if at == #ARGV then
  return outdated   -- no webhooks
end

local function take_list()
  local list = {}
  for i = 1, take() do
    list[i] = take()
  end
  return list
end
local dead_letter_targets, about, submission_targets = take_list(), take_list(), take_list()
local prefix, messages = take(), 0

-- Delete the oldest messages of a target, those that failed first, until another one fits. Neither
-- accepting nor finishing documents may ever fail because nobody takes the messages.
local function make_space(target, bytes)
  local state = K.WEBHOOK_STATE .. target
  local failed, waiting = K.WEBHOOKS_FAILED .. target, K.WEBHOOKS_WAITING .. target
  while redis.call('ZCARD', failed) + redis.call('ZCARD', waiting) >= K.WEBHOOK_MESSAGES
      or tonumber(redis.call('HGET', state, 'bytes') or '0') + bytes > K.WEBHOOK_BYTES do
    local oldest = redis.call('ZRANGE', failed, 0, 0)[1] or redis.call('ZRANGE', waiting, 0, 0)[1]
    if not oldest then
      return
    end
    delete_webhook(target, oldest)
    redis.call('HINCRBY', state, 'dropped', 1)
  end
end

-- Write a message for each target that has not asked to be told no more.
local function post(targets, event, delay_ms, ...)
  local bytes = 0
  for _, part in ipairs({...}) do
    bytes = bytes + #tostring(part)
  end
  for _, target in ipairs(targets) do
    local state = K.WEBHOOK_STATE .. target
    if redis.call('HEXISTS', state, 'gone') == 0 then
      make_space(target, bytes)
      messages = messages + 1
      local id, now = prefix .. messages, steady_ms()
      redis.call('SADD', K.WEBHOOK_TARGETS, target)
      redis.call('HSET', K.WEBHOOK .. id, 'target', target, 'event', event, 'at', now_ms(),
                 'bytes', bytes, 'attempts', 0, ...)
      redis.call('HINCRBY', state, 'bytes', bytes)
      redis.call('ZADD', K.WEBHOOKS_WAITING .. target, now, id)
      redis.call('ZADD', K.WEBHOOKS_DUE .. target, now + delay_ms, id)
    end
  end
end

for _, i in ipairs(written) do
  post(dead_letter_targets, 'document.dead_lettered', 0, 'data', about[i])
end
if followed and jobs_left <= 0 and #submission_targets > 0 then
  local finish = redis.call('HINCRBY', counts, 'finish', 1)
  local fields, numbers = redis.call('HGETALL', counts), {}
  for i = 1, #fields, 2 do
    if not fields[i]:find(':', 1, true) then   -- 'live:', 'tenant:' and 'collection:' are no counts
      numbers[#numbers + 1] = fields[i] .. '=' .. fields[i + 1]
    end
  end
  local listed, bytes = {}, 0
  for _, document in ipairs(redis.call('LRANGE', failed, 0, K.WEBHOOK_REJECTED - 1)) do
    bytes = bytes + #document
    if bytes > K.WEBHOOK_REJECTED_BYTES then
      break
    end
    listed[#listed + 1] = document
  end
  local array = string.char(0xdc, 0, #listed) .. table.concat(listed)   -- of MessagePack
  post(submission_targets, 'submission.finished', K.WEBHOOK_SETTLE_MS, 'submission', submission,
       'counts', table.concat(numbers, ' '), 'rejected', array, 'finish', finish)
end
return outdated
