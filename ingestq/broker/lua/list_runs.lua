-- List scheduled entries with their last runs, at one moment.
--
-- ARGV  1 ms after which an entry that no scheduler has published is left out   2 runs of each
--       then further entries, to be listed in any case
-- Returns for each {entry, its description (MessagePack, '' if no scheduler has published it),
-- record of the current run or '', 1 if that holds its lease, {records of finished runs, newest
-- first}}.

local answer = {}
local function list(entry, info)
  answer[#answer + 1] = {
    entry, info, redis.call('HGET', K.RUN .. entry, 'record') or '',
    redis.call('EXISTS', K.RUN_LEASE .. entry),
    redis.call('LRANGE', K.RUNS .. entry, 0, ARGV[2] - 1),
  }
end
local published, now = {}, now_ms()
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.ENTRIES, now - ARGV[1], now + ARGV[1])) do
  published[entry] = true
  list(entry, redis.call('HGET', K.ENTRY_INFO, entry))
end
for i = 3, #ARGV do
  if not published[ARGV[i]] then
    list(ARGV[i], '')
  end
end
return answer
