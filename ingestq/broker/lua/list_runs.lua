-- List scheduled entries with their last runs, at one moment.
--
-- ARGV  1 ms after which an entry that no scheduler said is not listed   2 runs of each
--       then further entries, to be listed in any case
-- Answers {entry, what it is (MessagePack, '' if no scheduler says it), record of the run that runs
-- or '', whether its lease lasts, {records of those that ended, the newest first}} of each.

local answer = {}
local function list(entry, info)
  answer[#answer + 1] = {
    entry, info, redis.call('HGET', K.RUN .. entry, 'record') or '',
    redis.call('EXISTS', K.RUN_LEASE .. entry),
    redis.call('LRANGE', K.RUNS .. entry, 0, ARGV[2] - 1),
  }
end
local said = {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.ENTRIES, now_ms() - ARGV[1], '+inf')) do
  said[entry] = true
  list(entry, redis.call('HGET', K.ENTRY_INFO, entry))
end
for i = 3, #ARGV do
  if not said[ARGV[i]] then
    list(ARGV[i], '')
  end
end
return answer
