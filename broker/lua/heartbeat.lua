-- Record a worker's sign of life, and forget workers that gave none for long.
--
-- KEYS  1 workers by last sign of life   2 what is known of them
-- ARGV  1 worker id   2 info (MessagePack)   3 ms after which a silent worker is forgotten

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[3])) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
return 1
