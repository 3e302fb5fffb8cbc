-- Count the jobs on the queue, and list the workers and the watched folders, at one moment.
--
-- ARGV  1 ms without a heartbeat after which a worker is left out   2 the same for a watched folder
-- Returns {ready, deferred, in flight, ms that the oldest ready job has waited, bytes, dead
-- letters, interactive jobs, bulk jobs, poison jobs, ready by collection, workers, ms by which the
-- versions are ahead of the clock, dead letters that have expired, watched folders (MessagePack),
-- sources of which something is held back, targets of webhooks}. Ready by collection has pairs of a collection and the
-- number of its ready jobs. A worker is {id, ms since its last heartbeat, info (MessagePack)}. A
-- source is {what is held back (MessagePack), since when in ms}. A target is as `webhook_state`
-- returns it.

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
local waited_ms = oldest[2] and math.max(0, now + oldest[2]) or 0
local interactive, bulk, interactive_bytes, bulk_bytes = unpack(redis.call(
  'HMGET', K.HELD, 'interactive:jobs', 'bulk:jobs', 'interactive:bytes', 'bulk:bytes'))
local poison, ready_by_collection = 0, {}
for _, collection in ipairs(redis.call('SMEMBERS', K.COLLECTIONS)) do
  poison = poison + redis.call('ZCARD', K.POISON .. collection)
  ready_by_collection[#ready_by_collection + 1] = collection
  ready_by_collection[#ready_by_collection + 1] = ready_for(collection)
end
local workers = {}
local seen = redis.call('ZRANGEBYSCORE', K.WORKERS, now - ARGV[1], now + ARGV[1], 'WITHSCORES')
for i = 1, #seen, 2 do
  local silent_ms = math.max(0, now - seen[i + 1])
  workers[#workers + 1] = {seen[i], silent_ms, redis.call('HGET', K.WORKER_INFO, seen[i])}
end
local folders = {}
local reported = redis.call('ZRANGEBYSCORE', K.WATCHED_FOLDERS, now - ARGV[2], now + ARGV[2])
for _, folder in ipairs(reported) do
  folders[#folders + 1] = redis.call('HGET', K.WATCHED_FOLDER_INFO, folder)
end
local held_back = {}
local held = redis.call('HGETALL', K.HELD_BACK)
for i = 1, #held, 2 do
  local since = tonumber(redis.call('HGET', K.HELD_SINCE, held[i]) or '0')
  held_back[#held_back + 1] = {held[i + 1], since}
end
local webhooks = {}
for _, target in ipairs(redis.call('SMEMBERS', K.WEBHOOK_TARGETS)) do
  webhooks[#webhooks + 1] = webhook_state(target)
end
local last_version = tonumber(redis.call('HGET', K.VERSIONS, 'last') or '0')
return {ready, deferred, in_flight, waited_ms, (interactive_bytes or 0) + (bulk_bytes or 0),
        redis.call('HLEN', K.DEAD), tonumber(interactive or '0'), tonumber(bulk or '0'),
        poison, ready_by_collection, workers,
        math.max(0, math.floor(last_version / 1000) - now),
        tonumber(redis.call('GET', K.DEAD_EXPIRED) or '0'), folders, held_back, webhooks}
