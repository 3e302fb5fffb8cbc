-- Claim up to n jobs, each under a lease with a fencing token, on the clock of Redis.
--
-- ARGV  1 worker   2 n   3 how many of them may be bulk jobs   4 jobs the worker runs already
--       5 lease in ms   6 collection that the worker writes to
-- Answers {jobs, drain, successor}: one {id, token, payload, lane, submission, documents, failures,
-- crashes, culprits, suspect, aborted} a job, and 1 if the worker is to let its jobs end because a
-- suspect is to be run alone. There is a successor only if the gate of the collection is shut: then
-- there are no jobs. A claimed job's score moves to the end of its lease: until then nobody else
-- sees it, and if its owner dies it comes back by itself.

local worker, n, bulk_n, running, lease_ms =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local REVIVED = 200   -- jobs that are made ready again in one step
local BULK_TURN = 4   -- of the jobs both lanes compete for, one in so many goes to bulk
local now = now_ms()
local claimed = {}

local successor = redis.call('GET', K.GATE .. ARGV[6])
if successor then
  return {claimed, 0, successor}
end

local function take(ids, suspect, aborted)
  -- Later claims have larger tokens, even if Redis was emptied in between: its clock goes on.
  local last_token = #ids + math.max(tonumber(redis.call('GET', K.FENCE) or '0'), now * 1000)
  redis.call('SET', K.FENCE, last_token)
  local payload_keys, scores = {}, {}
  for i, id in ipairs(ids) do
    payload_keys[i] = K.JOB .. id
    scores[2 * i - 1], scores[2 * i] = now + lease_ms, id
  end
  local payloads = redis.call('MGET', unpack(payload_keys))
  redis.call('ZADD', K.QUEUE, unpack(scores))
  for i, id in ipairs(ids) do
    local lane, submission, documents, failures, crashes, culprits = unpack(
      info_of(id, 'lane', 'submission', 'documents', 'failures', 'crashes', 'culprits'))
    -- What is missing was evicted: the worker finds that out from the payload, and says so.
    lane, submission, documents = lane or 'bulk', submission or '', documents or '0'
    local token = last_token - #ids + i
    redis.call('SET', K.LEASE .. id, token, 'PX', lease_ms)
    if submission ~= '' then
      redis.call('HSET', K.SUBMISSION .. submission, 'live:' .. id, '0/0')
    end
    claimed[#claimed + 1] = {
      id, token, payloads[i] or '', lane, submission, tonumber(documents),
      tonumber(failures or '0'), tonumber(crashes or '0'), culprits or '', suspect, aborted}
  end
end

local function take_from_lane(lane, count)
  if count == 0 then
    return
  end
  local popped, ids = redis.call('ZPOPMIN', K.LANE .. lane, count), {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
  end
  local clock = tonumber(redis.call('HGET', K.LANE_CLOCK, lane) or '0')
  redis.call('HSET', K.LANE_CLOCK, lane, math.max(clock, tonumber(popped[#popped])))
  if redis.call('ZCARD', K.LANE .. lane) == 0 then
    redis.call('DEL', K.LANE_TENANTS .. lane)   -- nobody waits: all start from the same place
  end
  take(ids, 0, 0)
end

local function worker_died(id)
  local submission, alone, culprits = unpack(info_of(id, 'submission', 'alone', 'culprits'))
  redis.call('HINCRBY', K.JOB_INFO .. id, 'crashes', 1)
  if alone then
    redis.call('HSET', K.JOB_INFO .. id, 'culprits', (culprits or '') .. ' ' .. alone)
  end
  redis.call('HDEL', K.JOB_INFO .. id, 'alone')
  redis.call('HDEL', K.SUBMISSION .. submission, 'live:' .. id)
end

-- Jobs whose lease or delay is over are ready again.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.QUEUE, 0, now, 'LIMIT', 0, REVIVED)) do
  local left_ms = redis.call('PTTL', K.LEASE .. id)
  local place = redis.call('HGET', K.JOB_INFO .. id, 'place')
  if left_ms >= 0 then
    redis.call('ZADD', K.QUEUE, now + left_ms + 1, id)   -- it ends in this very millisecond
  elseif place then
    if redis.call('HDEL', K.JOB_INFO .. id, 'deferred') == 0 then
      worker_died(id)
    end
    make_ready(id, now)
  elseif redis.call('EXISTS', K.JOB .. id) == 1 then
    redis.call('ZREM', K.QUEUE, id)   -- put there by arq's own enqueue_job
    add_job(id, redis.call('GET', K.JOB .. id), 'bulk', '', '', 0, 0)
  else
    redis.call('ZREM', K.QUEUE, id)   -- arq's abort touched a job that had just ended
  end
end

-- Jobs that wait and are to be given up.
for _, id in ipairs(redis.call('ZRANGE', K.ABORT, 0, REVIVED)) do
  local lane = redis.call('HGET', K.JOB_INFO .. id, 'lane')
  if not lane then
    redis.call('ZREM', K.ABORT, id)   -- it has ended; a later job of this name is not meant
  elseif #claimed < n and redis.call('EXISTS', K.LEASE .. id) == 0 then
    redis.call('ZREM', K.LANE .. lane, id)
    redis.call('ZREM', K.SUSPECTS, id)
    take({id}, 0, 1)
  end
end

-- A suspect is run by a worker that runs nothing else, so that nobody else is taken for the culprit.
if redis.call('ZCARD', K.SUSPECTS) > 0 then
  local turn = redis.call('GET', K.SUSPECT_TURN)
  if not turn or turn == worker then
    if running + #claimed > 0 then
      redis.call('SET', K.SUSPECT_TURN, worker, 'PX', lease_ms)
      return {claimed, 1}
    end
    redis.call('SET', K.SUSPECT_TURN, worker, 'PX', lease_ms)   -- refused if out of memory
    redis.call('DEL', K.SUSPECT_TURN)
    take({redis.call('ZPOPMIN', K.SUSPECTS)[1]}, 1, 0)
    return {claimed, 0}
  end
end

-- Both lanes get their share, and what one does not use goes to the other.
local free = n - #claimed
local interactive = redis.call('ZCARD', K.LANE .. 'interactive')
local bulk = math.min(redis.call('ZCARD', K.LANE .. 'bulk'), bulk_n)
if interactive + bulk == 0 or free == 0 then
  return {claimed, 0}
end
-- Also the first write: a server that is out of memory refuses it before anything is taken.
local turn = redis.call('INCRBY', K.LANE_TURN, free)
local for_bulk = math.floor(turn / BULK_TURN) - math.floor((turn - free) / BULK_TURN)
for_bulk = math.min(bulk, math.max(for_bulk, free - interactive))
take_from_lane('interactive', math.min(interactive, free - for_bulk))
take_from_lane('bulk', math.min(for_bulk, free))
return {claimed, 0}
