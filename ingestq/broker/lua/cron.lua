-- Queue a run of a cron job, unless another worker did, or one that was due later is queued.
--
-- ARGV  1 name of the cron job, '' to queue the run whatever others did   2 job id   3 payload
--       4 ms at which the run was due   5 collection
-- Answers 1 if the run was queued.

if ARGV[1] ~= '' then
  if tonumber(redis.call('HGET', K.CRON, ARGV[1]) or '0') >= tonumber(ARGV[4]) then
    return 0
  end
  -- Of several runs that were missed, one is made up for.
  redis.call('HSET', K.CRON, ARGV[1], math.max(now_ms(), tonumber(ARGV[4])))
end
if redis.call('EXISTS', K.JOB .. ARGV[2], K.RESULT .. ARGV[2]) > 0 then
  return 0
end
add_job(ARGV[2], ARGV[3], 'interactive', '', ARGV[5], '', 0, 0)
return 1
