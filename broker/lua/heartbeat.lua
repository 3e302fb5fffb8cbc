-- Record a worker's sign of life, and forget workers that gave none for long.
--
-- ARGV  1 worker id   2 info (MessagePack)   3 ms after which a silent worker is forgotten
-- Answers the collections that jobs are ready for, whoever serves them.

local now = now_ms()
redis.call('ZADD', K.WORKERS, now, ARGV[1])
redis.call('HSET', K.WORKER_INFO, ARGV[1], ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.WORKERS, '-inf', now - ARGV[3])) do
  redis.call('ZREM', K.WORKERS, id)
  redis.call('HDEL', K.WORKER_INFO, id)
end
local wanted = {}
for _, collection in ipairs(redis.call('SMEMBERS', K.COLLECTIONS)) do
  if ready_for(collection) > 0 then
    wanted[#wanted + 1] = collection
  else
    redis.call('SREM', K.COLLECTIONS, collection)   -- the next job that is ready brings it back
  end
end
return wanted
