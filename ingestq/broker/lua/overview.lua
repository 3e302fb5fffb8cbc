-- Count the jobs on the queue, and list the workers, at one moment.
--
-- ARGV  1 ms without a heartbeat after which a worker is left out
-- Returns {ready, deferred, in flight, ms that the oldest ready job has waited, bytes, dead
-- letters, interactive jobs, bulk jobs, poison jobs, ready by collection, workers}. Ready by
-- collection has pairs of a collection and the number of its ready jobs. A worker is {id, ms since
-- its last heartbeat, info (MessagePack)}.

local now = now_ms()
local ready = redis.call('ZCOUNT', K.QUEUE, '-inf', '(0')
local deferred, in_flight = 0, 0
local others = redis.call('ZRANGEBYSCORE', K.QUEUE, 0, '+inf', 'WITHSCORES')
for i = 1, #others, 2 do
  if redis.call('EXISTS', K.LEASE .. others[i]) == 1 then
    in_flight = in_flight + 1
  elseif tonumber(others[i + 1]) <= now then
    ready = ready + 1   -- its lease or delay is over, and no claim has made it ready yet
  else
    deferred = deferred + 1
  end
end
local oldest = redis.call('ZREVRANGEBYSCORE', K.QUEUE, '(0', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
local waited_ms = oldest[2] and now + oldest[2] or 0
local interactive, bulk, interactive_bytes, bulk_bytes = unpack(redis.call(
  'HMGET', K.HELD, 'interactive:jobs', 'bulk:jobs', 'interactive:bytes', 'bulk:bytes'))
local poison, ready_by_collection = 0, {}
for _, collection in ipairs(redis.call('SMEMBERS', K.COLLECTIONS)) do
  poison = poison + redis.call('ZCARD', K.POISON .. collection)
  ready_by_collection[#ready_by_collection + 1] = collection
  ready_by_collection[#ready_by_collection + 1] = ready_for(collection)
end
local workers = {}
local seen = redis.call('ZRANGEBYSCORE', K.WORKERS, now - ARGV[1], '+inf', 'WITHSCORES')
for i = 1, #seen, 2 do
  workers[#workers + 1] = {seen[i], now - seen[i + 1], redis.call('HGET', K.WORKER_INFO, seen[i])}
end
return {ready, deferred, in_flight, waited_ms, (interactive_bytes or 0) + (bulk_bytes or 0),
        redis.call('HLEN', K.DEAD), tonumber(interactive or '0'), tonumber(bulk or '0'),
        poison, ready_by_collection, workers}
