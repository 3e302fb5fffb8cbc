-- Record which document of a poison job is being processed, alone.
--
-- ARGV  1 job id   2 token   3 index of the document
-- Returns 1, or 0 if the caller no longer owns the job.

if redis.call('GET', K.LEASE .. ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', K.JOB_INFO .. ARGV[1], 'alone', ARGV[3])
return 1
