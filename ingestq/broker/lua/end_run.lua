-- End a run: its record becomes the first of the history. An interrupted run is due again, unless
-- it was a run on request.
--
-- ARGV  1 entry   2 token   3 record of the run   4 records that are kept
--       5 seconds for which they are kept   6 'ended', 'interrupted', or 'lost' (its process died)
--       7 how many runs in a row may be lost and are due again
-- Returns 1 if the run was ended, 0 if the token is not its owner's, or the run is not lost.

local run, lease, history = K.RUN .. ARGV[1], K.RUN_LEASE .. ARGV[1], K.RUNS .. ARGV[1]
if redis.call('HGET', run, 'token') ~= ARGV[2] then
  return redis.call('LINDEX', history, 0) == ARGV[3] and 1 or 0   -- the first answer was lost
end
local again = ARGV[6] == 'interrupted'
if ARGV[6] == 'lost' then
  if redis.call('EXISTS', lease) == 1 then
    return 0
  end
  again = redis.call('HINCRBY', K.RUNS_LOST, ARGV[1], 1) <= tonumber(ARGV[7])
else
  redis.call('HDEL', K.RUNS_LOST, ARGV[1])
end
local due = tonumber(redis.call('HGET', run, 'due'))
if due and again then
  redis.call('HSET', K.RUN_CLOCK, ARGV[1], due - 1)
end
redis.call('DEL', run, lease)
redis.call('LPUSH', history, ARGV[3])
redis.call('LTRIM', history, 0, ARGV[4] - 1)
redis.call('EXPIRE', history, ARGV[5])
return 1
