-- Put a dead letter back on the queue, unless it has changed since it was read.
--
-- ARGV  1 key of the dead letter   2 its content as it was read   3 job id   4 payload   5 lane
--       6 tenant   7 collection   8 submission   9 documents in the job   10 id of the call
-- Returns 1, or 0 if it was deleted or replaced, because its document succeeded or failed again.
-- The limits of the queue do not apply: the document was accepted before.

if redis.call('HGET', K.DEAD, ARGV[1]) ~= ARGV[2] then
  return answer_of(ARGV[10]) or 0
end
redis.call('INCR', K.REQUEUED)   -- a reader of queue and dead letters may have missed this one
delete_dead_letter(ARGV[1])
if redis.call('EXISTS', K.JOB .. ARGV[3]) == 0 then
  add_job(unpack(ARGV, 3, 9))
end
return remember(ARGV[10], 1)
