-- Publish the entries of a scheduler, and forget those that none has published for too long.
--
-- ARGV  1 ms after which an entry is forgotten   then pairs: entry, its description (MessagePack)

local now = now_ms()
for i = 2, #ARGV, 2 do
  redis.call('ZADD', K.ENTRIES, now, ARGV[i])
  redis.call('HSET', K.ENTRY_INFO, ARGV[i], ARGV[i + 1])
end
for _, entry in ipairs(remove_silent(K.ENTRIES, now, ARGV[1])) do
  redis.call('HDEL', K.ENTRY_INFO, entry)
end
return 1
