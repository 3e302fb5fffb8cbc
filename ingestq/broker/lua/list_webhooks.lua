-- List the targets of webhooks, and the oldest messages of each.
--
-- ARGV  1 the most messages of a target, waiting and failed ones each
-- Returns {targets, messages}. A target is as `webhook_state` returns it. A message is {id, 'waiting'
-- or 'failed', ms until the next attempt, fields and values}.

local targets, messages = {}, {}
local now = read_steady_ms()
for _, target in ipairs(redis.call('SMEMBERS', K.WEBHOOK_TARGETS)) do
  targets[#targets + 1] = webhook_state(target)
  for state, set in pairs({waiting = K.WEBHOOKS_WAITING, failed = K.WEBHOOKS_FAILED}) do
    for _, id in ipairs(redis.call('ZRANGE', set .. target, 0, ARGV[1] - 1)) do
      local due = redis.call('ZSCORE', K.WEBHOOKS_DUE .. target, id)
      messages[#messages + 1] = {id, state, due and math.max(0, due - now) or 0,
                                 redis.call('HGETALL', K.WEBHOOK .. id)}
    end
  end
end
return {targets, messages}
