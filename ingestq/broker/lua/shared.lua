-- Functions that the scripts share. Prepended to each script, before the names of keys are filled in.

local WAKE_TOKENS = 64      -- more tokens than idle workers are of no use
local POISON_CRASHES = 2    -- a job during which so many workers died is run alone
local RECENT = 100          -- submissions, and at least as many finished jobs, that are remembered

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function info_of(id, ...)
  return redis.call('HMGET', K.JOB_INFO .. id, ...)
end

-- In each lane every collection has a line of its own, because it may have its own workers, or none
-- at the moment.
local function line_of(lane, collection)
  return lane .. ':' .. collection
end

-- Remember when a submission changed. A submission in progress changes all the time, so many small
-- ones do not push it out.
local function note_change(submission, now)
  if redis.call('ZADD', K.RECENT_SUBMISSIONS, now, submission) == 1 then
    redis.call('ZREMRANGEBYRANK', K.RECENT_SUBMISSIONS, 0, -RECENT - 1)
  end
end

local function delete_dead_letter(key)
  redis.call('ZREM', K.DEAD_TIMES, key)
  return redis.call('HDEL', K.DEAD, key)
end

-- Let a job be claimed. A job keeps the place that it got when it was enqueued, so one that returns
-- to the queue is not sent to the end of the line.
local function make_ready(id, since_ms)
  local lane, place, crashes, collection =
    unpack(info_of(id, 'lane', 'place', 'crashes', 'collection'))
  local line = line_of(lane, collection)
  redis.call('ZADD', K.QUEUE, -since_ms, id)
  if tonumber(crashes or '0') >= POISON_CRASHES then
    redis.call('ZADD', K.POISON .. collection, since_ms, id)
  else
    redis.call('ZADD', K.LANE .. line, place, id)
  end
  redis.call('SADD', K.COLLECTIONS, collection)
  if redis.call('LLEN', K.WAKE .. line) < WAKE_TOKENS then
    redis.call('RPUSH', K.WAKE .. line, '1')
  end
end

-- Return the number of ready jobs of a collection.
local function ready_for(collection)
  return redis.call('ZCARD', K.LANE .. line_of('interactive', collection))
    + redis.call('ZCARD', K.LANE .. line_of('bulk', collection))
    + redis.call('ZCARD', K.POISON .. collection)
end

-- Return the place of a new job in its line, by start-time fair queueing (Goyal, Vin and Cheng,
-- 1996). The jobs of one tenant stand one behind the other, each as long as its number of
-- documents. A tenant without jobs in the line starts at the place that the line has reached, so no
-- tenant waits for the backlog of another.
local function place_in_line(line, tenant, documents)
  local clock = tonumber(redis.call('HGET', K.LANE_CLOCK, line) or '0')
  local tenant_end = tonumber(redis.call('HGET', K.LANE_TENANTS .. line, tenant) or '0')
  local place = math.max(clock, tenant_end)
  redis.call('HSET', K.LANE_TENANTS .. line, tenant, place + math.max(documents, 1))
  return place
end

-- Add a job that is not on the queue. Its submission is '' if it belongs to none.
local function add_job(id, payload, lane, tenant, collection, submission, documents,
                       submission_seconds)
  local now = now_ms()
  redis.call('SET', K.JOB .. id, payload)
  redis.call('HSET', K.JOB_INFO .. id, 'lane', lane, 'tenant', tenant, 'submission', submission,
             'collection', collection, 'documents', documents, 'bytes', #payload,
             'place', place_in_line(line_of(lane, collection), tenant, tonumber(documents)))
  redis.call('HINCRBY', K.HELD, lane .. ':jobs', 1)
  redis.call('HINCRBY', K.HELD, lane .. ':bytes', #payload)
  redis.call('ZREM', K.ABORT, id)   -- an abort of an earlier job with this id
  if submission ~= '' then
    redis.call('HINCRBY', K.SUBMISSION .. submission, 'accepted', documents)
    redis.call('HINCRBY', K.SUBMISSION .. submission, 'jobs', 1)
    redis.call('EXPIRE', K.SUBMISSION .. submission, submission_seconds)
    note_change(submission, now)
  end
  make_ready(id, now)
end

-- Put one job on the queue, unless its lane or the whole queue is full. The limits are those of the
-- queue in jobs and bytes, and those of a lane. Returns 'accepted', 'duplicate' (the job is
-- waiting, running or has just finished), 'full', or 'expired' (its blobs may be deleted at any
-- time). The job gets no TTL. A job larger than a byte limit is accepted if nothing else is on the
-- queue.
local function offer(id, payload, lane, tenant, collection, submission, documents,
                     submission_seconds, queue_jobs, queue_bytes, lane_jobs, lane_bytes, expires_ms)
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
  add_job(id, payload, lane, tenant, collection, submission, documents, submission_seconds)
  return 'accepted'
end
