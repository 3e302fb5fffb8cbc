-- Put a dead letter back on the queue, unless it changed since it was read.
--
-- ARGV  1 key of the letter   2 the letter as it was read   3 job id   4 payload   5 lane
--       6 tenant   7 collection   8 submission   9 documents in the job
--       10 seconds to keep the submission
-- Answers 1, or 0 if the letter is gone or another one: its document succeeded or failed anew.
-- The bounds of the queue do not count: what is requeued had been accepted once.

if redis.call('HGET', K.DEAD, ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('INCR', K.REQUEUED)   -- who looks through queue and letters may have missed this one
remove_letter(ARGV[1])
if redis.call('EXISTS', K.JOB .. ARGV[3]) == 0 then
  add_job(unpack(ARGV, 3))
end
return 1
