-- Record the heartbeat of a worker, and forget workers that have sent none for too long.
--
-- ARGV  1 worker id   2 info (MessagePack)   3 ms after which a silent worker is forgotten
-- Returns the collections that have ready jobs and that no live worker serves.

local now = now_ms()
redis.call('ZADD', K.WORKERS, now, ARGV[1])
redis.call('HSET', K.WORKER_INFO, ARGV[1], ARGV[2])
for _, id in ipairs(remove_silent(K.WORKERS, now, ARGV[3])) do
  redis.call('HDEL', K.WORKER_INFO, id)
end
local unserved = {}
for _, collection in ipairs(redis.call('SMEMBERS', K.COLLECTIONS)) do
  if ready_for(collection) > 0 then
    unserved[collection] = true
  else
    redis.call('SREM', K.COLLECTIONS, collection)   -- the next ready job adds it again
  end
end
if not next(unserved) then
  return {}
end
for _, info in ipairs(redis.call('HVALS', K.WORKER_INFO)) do
  for _, collection in ipairs(cmsgpack.unpack(info).collections or {}) do
    unserved[collection] = nil
  end
end
local names = {}
for collection in pairs(unserved) do
  names[#names + 1] = collection
end
return names
