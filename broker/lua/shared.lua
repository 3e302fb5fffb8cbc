-- What the scripts share. Prepended to each of them, after the names of the keys in K.

local WAKE_TOKENS = 64      -- more than there can be idle workers are of no use
local SUSPECT_CRASHES = 2   -- a job over which so many workers died is run alone

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function info_of(id, ...)
  return redis.call('HMGET', K.JOB_INFO .. id, ...)
end

-- Let the job be claimed. Every job keeps the place it got when it was enqueued, so one that comes
-- back is not sent to the end of the line.
local function make_ready(id, since_ms)
  local lane, place, crashes = unpack(info_of(id, 'lane', 'place', 'crashes'))
  redis.call('ZADD', K.QUEUE, -since_ms, id)
  if tonumber(crashes or '0') >= SUSPECT_CRASHES then
    redis.call('ZADD', K.SUSPECTS, since_ms, id)
  else
    redis.call('ZADD', K.LANE .. lane, place, id)
  end
  if redis.call('LLEN', K.WAKE .. lane) < WAKE_TOKENS then
    redis.call('RPUSH', K.WAKE .. lane, '1')
  end
end

-- The place of a new job in its lane: start-time fair queueing (Goyal, Vin and Cheng, 1996). A
-- tenant's jobs stand one behind the other, each as long as it has documents; who had nothing in
-- the lane starts where the lane has come to, so nobody waits for another tenant's backlog.
local function place_in_lane(lane, tenant, documents)
  local clock = tonumber(redis.call('HGET', K.LANE_CLOCK, lane) or '0')
  local line_end = tonumber(redis.call('HGET', K.LANE_TENANTS .. lane, tenant) or '0')
  local place = math.max(clock, line_end)
  redis.call('HSET', K.LANE_TENANTS .. lane, tenant, place + math.max(documents, 1))
  return place
end

-- Add a job that is not on the queue. Its submission is '' if nobody follows it.
local function add_job(id, payload, lane, tenant, submission, documents, submission_seconds)
  redis.call('SET', K.JOB .. id, payload)
  redis.call('HSET', K.JOB_INFO .. id, 'lane', lane, 'tenant', tenant, 'submission', submission,
             'documents', documents, 'bytes', #payload,
             'place', place_in_lane(lane, tenant, tonumber(documents)))
  redis.call('HINCRBY', K.HELD, lane .. ':jobs', 1)
  redis.call('HINCRBY', K.HELD, lane .. ':bytes', #payload)
  redis.call('ZREM', K.ABORT, id)   -- an abort that was meant for an earlier job of this name
  if submission ~= '' then
    redis.call('HINCRBY', K.SUBMISSION .. submission, 'accepted', documents)
    redis.call('HINCRBY', K.SUBMISSION .. submission, 'jobs', 1)
    redis.call('EXPIRE', K.SUBMISSION .. submission, submission_seconds)
  end
  make_ready(id, now_ms())
end

-- Put one job on the queue, unless its lane or the whole queue is full. The bounds are those of the
-- queue in jobs and bytes, and those of a lane. Answers 'accepted', 'duplicate' (the job waits, runs
-- or has just finished), 'full', or 'expired' (what it names in the spool may be removed at any
-- time). The job gets no time to live. One job larger than a byte bound is let in when nothing waits.
local function offer(id, payload, lane, tenant, submission, documents, submission_seconds,
                     queue_jobs, queue_bytes, lane_jobs, lane_bytes, expires_ms)
  if redis.call('EXISTS', K.JOB .. id, K.RESULT .. id) > 0 then
    return 'duplicate'
  end
  if expires_ms ~= '' and now_ms() > tonumber(expires_ms) then
    return 'expired'
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
  if is_over(jobs, bytes, queue_jobs, queue_bytes)
      or is_over(held[lane .. ':jobs'] or 0, held[lane .. ':bytes'] or 0, lane_jobs, lane_bytes) then
    return 'full'
  end
  add_job(id, payload, lane, tenant, submission, documents, submission_seconds)
  return 'accepted'
end
