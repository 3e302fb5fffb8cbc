-- Store a new API token, unless there is another with its name.
--
-- ARGV  1 name   2 id   3 ms for which it is valid, '' for ever   then pairs: field and value
-- Returns {the time in ms, fields of the token}, or nil if the name is taken.

local other = redis.call('HGET', K.TOKENS, ARGV[1])
if other and other ~= ARGV[2] then
  return nil
end
local token, now = K.TOKEN .. ARGV[2], now_ms()
redis.call('HSET', token, 'name', ARGV[1], 'made', now,
           'expires', ARGV[3] == '' and '' or now + ARGV[3], unpack(ARGV, 4))
redis.call('HSET', K.TOKENS, ARGV[1], ARGV[2])
return {now, redis.call('HGETALL', token)}
