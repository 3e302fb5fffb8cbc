-- Begin a run of a scheduled entry, unless one of it runs, or it was begun before.
--
-- ARGV  1 entry   2 its field in K.CRON   3 token   4 record of the run   5 lease in ms
--       6 ms at which the run was due, '' if somebody asked for it now
-- Answers 'begun', 'running' (the run before has not ended: this one is skipped), or 'before'.

local run, due = K.RUN .. ARGV[1], tonumber(ARGV[6])
if redis.call('HGET', run, 'token') == ARGV[3] then
  return 'begun'   -- the first answer was lost
end
if due and tonumber(redis.call('HGET', K.CRON, ARGV[2]) or '0') >= due then
  return 'before'
end
if due then
  -- Of several runs that were missed, one is made up for.
  redis.call('HSET', K.CRON, ARGV[2], math.max(now_ms(), due))
end
if redis.call('EXISTS', run) == 1 then
  return 'running'
end
redis.call('HSET', run, 'token', ARGV[3], 'record', ARGV[4], 'due', ARGV[6])
redis.call('SET', K.RUN_LEASE .. ARGV[1], ARGV[3], 'PX', ARGV[5])
return 'begun'
