-- Put one job on the queue, in one step, unless its lane or the whole queue is full.
--
-- ARGV  1 job id       2 payload   3 lane   4 tenant   5 submission   6 documents in the job
--       7 seconds to keep the submission
--       8 bound of the queue in jobs    9 in bytes    10 bound of a lane in jobs    11 in bytes
-- Answers 'accepted', 'duplicate' (the job waits, runs or has just finished) or 'full'.
-- The job gets no time to live. One job larger than a byte bound is let in when nothing waits.

local id, payload, lane = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', K.JOB .. id, K.RESULT .. id) > 0 then
  return 'duplicate'
end

local jobs, bytes, held = 0, 0, {}
local fields = redis.call('HGETALL', K.HELD)
for i = 1, #fields, 2 do
  held[fields[i]] = tonumber(fields[i + 1])
  if fields[i]:sub(-5) == ':jobs' then
    jobs = jobs + fields[i + 1]
  else
    bytes = bytes + fields[i + 1]
  end
end
local function is_over(held_jobs, held_bytes, max_jobs, max_bytes)
  return held_jobs >= tonumber(max_jobs)
    or (held_bytes > 0 and held_bytes + #payload > tonumber(max_bytes))
end
if is_over(jobs, bytes, ARGV[8], ARGV[9])
    or is_over(held[lane .. ':jobs'] or 0, held[lane .. ':bytes'] or 0, ARGV[10], ARGV[11]) then
  return 'full'
end

add_job(id, payload, lane, ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return 'accepted'
