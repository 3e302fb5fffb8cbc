-- Claim up to n messages of a target that are due, each under a lease.
--
-- ARGV  1 target   2 n   3 lease in ms   4 token   5 ms by which messages are claimed early
-- Returns {messages, ms until the next one is due or -1, messages dropped since the last claim}. A
-- message is {id, fields and values}.

local target, token = ARGV[1], ARGV[4]
local due, state = K.WEBHOOKS_DUE .. target, K.WEBHOOK_STATE .. target
local now = read_steady_ms()

-- Return whether the message tells of a submission that has more documents by now: it will be
-- finished again, or was. One that somebody asked to be sent again is sent.
local function is_unfinished(id)
  local submission, finish, attempts, retried =
    unpack(redis.call('HMGET', K.WEBHOOK .. id, 'submission', 'finish', 'attempts', 'retried'))
  if not submission or attempts ~= '0' or retried then
    return false, false
  end
  local jobs, last = unpack(redis.call('HMGET', K.SUBMISSION .. submission, 'jobs', 'finish'))
  return tonumber(jobs or '0') > 0, last and last ~= finish
end

local messages = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now + ARGV[5], 'LIMIT', 0, ARGV[2])) do
  now = steady_ms()
  local continues, is_outdated = is_unfinished(id)
  if is_outdated then
    delete_webhook(target, id)
  elseif continues then
    redis.call('ZADD', due, now + math.max(K.WEBHOOK_SETTLE_MS, ARGV[5] + 1), id)
  elseif redis.call('EXISTS', K.WEBHOOK .. id) == 0 then
    delete_webhook(target, id)
  else
    redis.call('ZADD', due, now + ARGV[3], id)
    redis.call('HSET', K.WEBHOOK .. id, 'token', token)
    redis.call('HINCRBY', K.WEBHOOK .. id, 'attempts', 1)
    messages[#messages + 1] = {id, redis.call('HGETALL', K.WEBHOOK .. id)}
  end
end
local failed = K.WEBHOOKS_FAILED .. target
for _, id in ipairs(redis.call('ZRANGEBYSCORE', failed, '-inf', now - K.WEBHOOK_FAILED_MS,
                               'LIMIT', 0, 100)) do
  delete_webhook(target, id)
end
local dropped, reported = unpack(redis.call('HMGET', state, 'dropped', 'reported'))
local unreported = (dropped or 0) - (reported or 0)
if unreported > 0 then
  redis.call('HSET', state, 'reported', dropped)
end
local following = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
return {messages, following and math.max(0, following - now) or -1, unreported}
