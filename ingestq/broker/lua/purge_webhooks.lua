-- Delete the messages of a target, and what is known of it. Nothing is sent any more.
--
-- ARGV  1 target
-- Returns the number of messages.

local target, purged = ARGV[1], 0
for _, set in ipairs({K.WEBHOOKS_WAITING, K.WEBHOOKS_FAILED}) do
  for _, id in ipairs(redis.call('ZRANGE', set .. target, 0, -1)) do
    delete_webhook(target, id)
    purged = purged + 1
  end
end
redis.call('DEL', K.WEBHOOK_STATE .. target)
redis.call('SREM', K.WEBHOOK_TARGETS, target)
return purged
