-- Begin a run of a scheduled entry, unless one is running or this one has begun before.
--
-- ARGV  1 entry   2 token   3 record of the run   4 lease in ms
--       5 ms at which the run was due, '' for a run on request
-- Returns 'begun', 'running' (the previous run has not ended: this one is skipped), or 'before'.

local run, due = K.RUN .. ARGV[1], tonumber(ARGV[5])
if redis.call('HGET', run, 'token') == ARGV[2] then
  return 'begun'   -- the first answer was lost
end
if due and tonumber(redis.call('HGET', K.RUN_CLOCK, ARGV[1]) or '0') >= due then
  return 'before'
end
if due then
  -- Of several missed runs, only one is begun.
  redis.call('HSET', K.RUN_CLOCK, ARGV[1], math.max(now_ms(), due))
end
if redis.call('EXISTS', run) == 1 then
  return 'running'
end
redis.call('HSET', run, 'token', ARGV[2], 'record', ARGV[3], 'due', ARGV[5], 'lease', ARGV[4])
redis.call('SET', K.RUN_LEASE .. ARGV[1], ARGV[2], 'PX', ARGV[4])
return 'begun'
