-- Functions that the scripts share. Prepended to each script, before the constants are filled in.

local WAKE_TOKENS = 64      -- more tokens than idle workers are of no use
local POISON_CRASHES = 2    -- a job during which so many workers died is run alone
local MAX_LEAP_MS = 7 * 24 * 3600 * 1000
local RECENT = 100          -- submissions, and at least as many finished jobs, that are remembered

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the time in microseconds, or 0 if the clock is certainly wrong.
local function now_us()
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  return now <= V.LAST_ISSUED and now or 0
end

-- Let later versions be larger than this one, which is on the scale of the issued ones.
local function note_version(version)
  if version <= V.LAST_ISSUED
      and version > tonumber(redis.call('HGET', K.VERSIONS, 'last') or '0') then
    redis.call('HSET', K.VERSIONS, 'last', version)
  end
end

-- Return the steady clock in ms, which measures ages. It begins with the time of Redis, and goes on
-- with it, but never back. A leap of the clock counts as at most MAX_LEAP_MS, so it makes nothing
-- old at once.
local function read_steady_ms()
  local now = now_ms()
  local shows, set = unpack(redis.call('HMGET', K.STEADY_CLOCK, 'shows', 'set'))
  return tonumber(shows or now) + math.max(0, math.min(now - (set or now), MAX_LEAP_MS)), now
end

local function steady_ms()
  local shows, now = read_steady_ms()
  redis.call('HSET', K.STEADY_CLOCK, 'shows', shows, 'set', now)
  return shows
end

-- Remember what a call was answered that cannot be repeated; return that. If the answer is lost, the
-- client sends the same call again.
local function remember(call, answer)
  redis.call('SET', K.ANSWERED .. call, answer, 'PX', K.ANSWERED_MS)
  return answer
end

-- Return what the call was answered, if it was sent before.
local function answer_of(call)
  return tonumber(redis.call('GET', K.ANSWERED .. call) or nil)
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
  -- Times to come are of a clock that was set back since.
  redis.call('ZREMRANGEBYSCORE', K.RECENT_SUBMISSIONS, '(' .. now, '+inf')
  if redis.call('ZADD', K.RECENT_SUBMISSIONS, now, submission) == 1 then
    redis.call('ZREMRANGEBYRANK', K.RECENT_SUBMISSIONS, 0, -RECENT - 1)
  end
end

-- Remove from a set of times the members of which nothing was heard for ms. Those with a time that
-- is still to come count as such: the clock was set back since. Returns the removed members.
local function remove_silent(times, now, ms)
  local silent = redis.call('ZRANGEBYSCORE', times, '-inf', now - ms)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', times, now + ms, '+inf')) do
    silent[#silent + 1] = member
  end
  for _, member in ipairs(silent) do
    redis.call('ZREM', times, member)
  end
  return silent
end

-- Let a key expire within ms. It lasts longer if the clock was set back since it was written.
local function bound_ttl(key, ms)
  if redis.call('PTTL', key) > ms then
    redis.call('PEXPIRE', key, ms)
  end
end

-- Forget that the dead letter holds deletions back.
local function release(key)
  redis.call('HDEL', K.HELD_BACK, key)
  redis.call('HDEL', K.HELD_SINCE, key)
end

local function delete_dead_letter(key)
  release(key)
  redis.call('ZREM', K.DEAD_TIMES, key)
  redis.call('HDEL', K.DEAD_VERSIONS, key)
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

-- Add a job that is not on the queue. Its submission is '' if it belongs to none. A submission does
-- not expire while it has jobs.
local function add_job(id, payload, lane, tenant, collection, submission, documents)
  local now = now_ms()
  redis.call('SET', K.JOB .. id, payload)
  redis.call('HSET', K.JOB_INFO .. id, 'lane', lane, 'tenant', tenant, 'submission', submission,
             'collection', collection, 'documents', documents, 'bytes', #payload,
             'place', place_in_line(line_of(lane, collection), tenant, tonumber(documents)))
  redis.call('HINCRBY', K.HELD, lane .. ':jobs', 1)
  redis.call('HINCRBY', K.HELD, lane .. ':bytes', #payload)
  redis.call('ZREM', K.ABORT, id)   -- an abort of an earlier job with this id
  if submission ~= '' then
    local counts = K.SUBMISSION .. submission
    if redis.call('EXISTS', counts) == 0 then
      redis.call('HSET', counts, 'tenant:' .. tenant, 1)
    elseif redis.call('HEXISTS', counts, 'tenant:' .. tenant) == 0 then
      redis.call('HSET', counts, 'mixed', 1)   -- jobs of several tenants
    end
    redis.call('HSET', counts, 'collection:' .. collection, 1)
    redis.call('HINCRBY', counts, 'accepted', documents)
    redis.call('HINCRBY', K.SUBMISSION .. submission, 'jobs', 1)
    redis.call('PERSIST', K.SUBMISSION .. submission)
    redis.call('PERSIST', K.FAILED_DOCUMENTS .. submission)
    redis.call('PERSIST', K.DOCUMENT_WARNINGS .. submission)
    note_change(submission, now)
  end
  make_ready(id, now)
end

-- Put one job on the queue, unless its lane or the whole queue is full. The limits are those of the
-- queue in jobs and bytes, and those of a lane. Returns 'accepted', 'duplicate' (the job is
-- waiting, running or has just finished), 'full', or 'expired' (its blobs may be deleted at any
-- time). The job gets no TTL. A job larger than a byte limit is accepted if nothing else is on the
-- queue.
local function offer(id, payload, lane, tenant, collection, submission, documents, newest_version,
                     queue_jobs, queue_bytes, lane_jobs, lane_bytes, expires_ms)
  if redis.call('EXISTS', K.JOB .. id, K.RESULT .. id) > 0 then
    return 'duplicate'
  end
  if expires_ms ~= '' and steady_ms() > tonumber(expires_ms) then
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
  if tonumber(newest_version) >= V.FIRST_ISSUED then
    note_version(tonumber(newest_version))
  end
  add_job(id, payload, lane, tenant, collection, submission, documents)
  return 'accepted'
end

-- Remove a message from the outbox of webhooks. Does nothing if it is not there any more.
local function delete_webhook(target, id)
  local bytes = redis.call('HGET', K.WEBHOOK .. id, 'bytes')
  if bytes then
    redis.call('HINCRBY', K.WEBHOOK_STATE .. target, 'bytes', -bytes)
  end
  redis.call('DEL', K.WEBHOOK .. id)
  redis.call('ZREM', K.WEBHOOKS_WAITING .. target, id)
  redis.call('ZREM', K.WEBHOOKS_DUE .. target, id)
  redis.call('ZREM', K.WEBHOOKS_FAILED .. target, id)
end

-- Keep a message for people, and try it no more.
local function fail_webhook(target, id)
  redis.call('ZREM', K.WEBHOOKS_WAITING .. target, id)
  redis.call('ZREM', K.WEBHOOKS_DUE .. target, id)
  redis.call('HDEL', K.WEBHOOK .. id, 'token')
  redis.call('ZADD', K.WEBHOOKS_FAILED .. target, steady_ms(), id)
end

-- Return {target, waiting, failed, ms that the oldest waiting message has waited, state}.
local function webhook_state(target)
  local oldest = redis.call('ZRANGE', K.WEBHOOKS_WAITING .. target, 0, 0, 'WITHSCORES')[2]
  return {target, redis.call('ZCARD', K.WEBHOOKS_WAITING .. target),
          redis.call('ZCARD', K.WEBHOOKS_FAILED .. target),
          oldest and math.max(0, read_steady_ms() - oldest) or 0,
          redis.call('HGETALL', K.WEBHOOK_STATE .. target)}
end
