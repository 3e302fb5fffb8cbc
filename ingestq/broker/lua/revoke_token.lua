-- Delete an API token.
--
-- ARGV  1 name   2 id of the call
-- Returns the number of tokens that are left, or nil if there is none with this name.

local answered = answer_of(ARGV[2])
if answered then
  return answered
end
local id = redis.call('HGET', K.TOKENS, ARGV[1])
if not id then
  return nil
end
redis.call('DEL', K.TOKEN .. id, K.TOKEN_RATE .. id)
redis.call('HDEL', K.TOKENS, ARGV[1])
return remember(ARGV[2], redis.call('HLEN', K.TOKENS))
