-- Look up an API token, and count a request against its limit, in one step.
--
-- ARGV  1 'token', 'session' or 'id': what is sent   2 id of the token; of a session, its digest
--       3 digest of the token, '' for the others     4 how many requests to count, 0 or 1
-- Returns nil if there is no such token or session, or it has expired; else {id, fields of the
-- token, the time in ms, requests left (-1: no limit), ms until all are left, ms to wait}. A request
-- that has to wait is not counted.
-- The limit is a token bucket: as many requests at once as a minute allows, and then as fast as it
-- refills (GCRA). Comparing takes the same time for every guess: Lua compares texts by their address,
-- and a digest says nothing of how close a guess is.

local id = ARGV[2]
if ARGV[1] == 'session' then
  id = redis.call('GET', K.TOKEN_SESSION .. id)
  if not id then
    return nil
  end
end
local token, now = K.TOKEN .. id, now_ms()
local digest, expires, per_minute, used = unpack(redis.call(
  'HMGET', token, 'digest', 'expires', 'per_minute', 'used'))
if not digest or (ARGV[1] == 'token' and digest ~= ARGV[3])
    or (expires ~= '' and now >= tonumber(expires)) then
  return nil
end
if not used or math.abs(now - used) >= K.TOKEN_USED_MS then
  redis.call('HSET', token, 'used', now)
end
local left, full_in_ms, wait_ms = -1, 0, 0
if per_minute ~= '' then
  local each = K.TOKEN_WINDOW_MS / per_minute   -- the bucket refills by one request in so many ms
  local full_at = tonumber(redis.call('GET', K.TOKEN_RATE .. id) or now)
  full_in_ms = math.max(0, full_at - now)
  if full_in_ms > K.TOKEN_WINDOW_MS then   -- the clock was set back since
    full_in_ms = K.TOKEN_WINDOW_MS
    redis.call('SET', K.TOKEN_RATE .. id, string.format('%.3f', now + full_in_ms), 'PX', full_in_ms)
  end
  local after = full_in_ms + ARGV[4] * each
  if after > K.TOKEN_WINDOW_MS + 0.001 then
    wait_ms = math.ceil(after - K.TOKEN_WINDOW_MS)
  elseif ARGV[4] ~= '0' then
    full_in_ms = after
    redis.call('SET', K.TOKEN_RATE .. id, string.format('%.3f', now + full_in_ms), 'PX',
               math.ceil(full_in_ms))
  end
  left = math.floor((K.TOKEN_WINDOW_MS - full_in_ms) / each + 0.001)
end
return {id, redis.call('HGETALL', token), now, left, math.ceil(full_in_ms), wait_ms}
