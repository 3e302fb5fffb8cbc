-- Compare the newest version in the ledger of a collection with those of this Redis, and let all
-- further versions and fencing tokens be larger.
--
-- What a ledger holds when it is first compared was indexed before this Redis existed, which took
-- the place of one that was lost. If its clock is behind, it may have issued versions that are
-- smaller than those in the ledger, though their documents are newer. These versions get an offset,
-- which keeps their order and makes them larger than all in the ledger. Whoever claims a job adds
-- it; no job of the collection is claimed before.
--
-- ARGV  1 collection   2 newest version in its ledger, 0 if it is empty   3 largest fencing token
-- Returns {ms by which the ledger is ahead of the clock, 1 if versions get an offset now}.

local collection, newest, token = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local last, first = unpack(redis.call('HMGET', K.VERSIONS, 'last', 'first'))
last, first = tonumber(last or '0'), tonumber(first)
redis.call('SET', K.FENCE, math.max(token, tonumber(redis.call('GET', K.FENCE) or '0')))
local is_first_time = redis.call('HEXISTS', K.VERSION_OFFSETS, collection) == 0
local offset = 0
if is_first_time and first and newest >= first then
  offset = newest - first + 1
  local moved = string.format('%.0f %.0f %.0f', first, last, offset)
  redis.call('HSET', K.VERSION_OFFSETS, collection, moved)
elseif is_first_time then
  redis.call('HSET', K.VERSION_OFFSETS, collection, '')
end
redis.call('HSET', K.VERSIONS, 'last', math.max(newest, last + offset))
local now = now_us()
return {now > 0 and math.max(0, math.floor((newest - now) / 1000)) or 0, offset > 0 and 1 or 0}
