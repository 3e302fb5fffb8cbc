-- Claim up to n jobs, each under a lease with a fencing token, on the clock of Redis.
--
-- ARGV  1 worker   2 n   3 how many of them may be bulk jobs   4 jobs the worker runs already
--       5 lease in ms   then pairs: the public name of a collection that the worker serves, and the
--       collection behind it
-- Returns {jobs, drain, shut, uncompared}. A job is {id, token, payload, lane, submission,
-- documents, failures, crashes, poison documents, poison, aborted, collection, version offset}.
-- drain is 1 if the worker must finish its jobs first, because a poison job must be run alone. shut
-- has pairs: a collection whose gate is shut, so that none of its jobs is claimed, and its
-- successor. uncompared has the collections whose ledgers have to be compared with the versions
-- (compare_ledger.lua) before any of their jobs is claimed. A claimed job's score becomes the end
-- of its lease: until then no other worker sees it, and if its owner dies it becomes ready again by
-- itself.

local worker, n, bulk_n, running, lease_ms =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local REVIVED = 200   -- most jobs that are made ready again in one step
local BULK_TURN = 4   -- of the jobs for which both lanes compete, one in so many is bulk
local now = now_ms()
local claimed, open, shut, uncompared, offsets = {}, {}, {}, {}, {}

for i = 6, #ARGV, 2 do
  local collection, gate = ARGV[i], K.GATE .. ARGV[i + 1]
  local successor = redis.call('GET', gate)
  offsets[collection] = redis.call('HGET', K.VERSION_OFFSETS, collection)
  if successor then
    shut[#shut + 1], shut[#shut + 2] = collection, successor
    if successor == '' then
      bound_ttl(gate, K.GATE_SHUT_MS)
    end
  elseif not offsets[collection] then
    uncompared[#uncompared + 1] = collection
  else
    open[#open + 1] = collection
  end
end
if #open == 0 then
  return {claimed, 0, shut, uncompared}
end

local function take(ids, collection, poison, aborted)
  -- Later claims have larger tokens, even if Redis was emptied in between: its clock goes on, and
  -- if not, compare_ledger.lua raises the last token.
  local last_token = #ids + math.max(tonumber(redis.call('GET', K.FENCE) or '0'), now_us())
  redis.call('SET', K.FENCE, last_token)
  local payload_keys, scores = {}, {}
  for i, id in ipairs(ids) do
    payload_keys[i] = K.JOB .. id
    scores[2 * i - 1], scores[2 * i] = now + lease_ms, id
  end
  local payloads = redis.call('MGET', unpack(payload_keys))
  redis.call('ZADD', K.QUEUE, unpack(scores))
  for i, id in ipairs(ids) do
    local lane, submission, documents, failures, crashes, poison_documents = unpack(info_of(
      id, 'lane', 'submission', 'documents', 'failures', 'crashes', 'poison'))
    -- Missing keys were evicted by Redis. The worker reports that when it finds no payload.
    lane, submission, documents = lane or 'bulk', submission or '', documents or '0'
    local token = last_token - #ids + i
    redis.call('SET', K.LEASE .. id, token, 'PX', lease_ms)
    redis.call('HSET', K.JOB_INFO .. id, 'lease', lease_ms)
    if submission ~= '' then
      redis.call('HSET', K.SUBMISSION .. submission, 'live:' .. id, '0/0')
    end
    claimed[#claimed + 1] = {
      id, token, payloads[i] or '', lane, submission, tonumber(documents),
      tonumber(failures or '0'), tonumber(crashes or '0'), poison_documents or '', poison, aborted,
      collection, offsets[collection] or ''}   -- aborted: the worker may not serve it
  end
end

local function take_from_line(lane, collection, count)
  local line = line_of(lane, collection)
  local popped, ids = redis.call('ZPOPMIN', K.LANE .. line, count), {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
  end
  local clock = tonumber(redis.call('HGET', K.LANE_CLOCK, line) or '0')
  redis.call('HSET', K.LANE_CLOCK, line, math.max(clock, tonumber(popped[#popped])))
  if redis.call('ZCARD', K.LANE .. line) == 0 then
    redis.call('DEL', K.LANE_TENANTS .. line)   -- empty: all tenants start from the same place
  end
  take(ids, collection, 0, 0)
end

-- Return the lines of a lane in which jobs wait for this worker, and the total number of jobs.
local function lines_of(lane)
  local lines, jobs = {}, 0
  for _, collection in ipairs(open) do
    local waiting = redis.call('ZCARD', K.LANE .. line_of(lane, collection))
    if waiting > 0 then
      lines[#lines + 1] = {collection = collection, waiting = waiting, taken = 0}
      jobs = jobs + waiting
    end
  end
  return lines, jobs
end

-- Take count jobs from the lines of a lane, in turns. There must be that many.
local function take_from_lane(lane, lines, count)
  if count == 0 then
    return
  end
  if #lines == 1 then
    return take_from_line(lane, lines[1].collection, count)
  end
  local turn = redis.call('INCRBY', K.LANE_TURN .. ':' .. lane, count) - count
  while count > 0 do
    local line = lines[turn % #lines + 1]
    if line.taken < line.waiting then
      line.taken, count = line.taken + 1, count - 1
    end
    turn = turn + 1
  end
  for _, line in ipairs(lines) do
    if line.taken > 0 then
      take_from_line(lane, line.collection, line.taken)
    end
  end
end

local function worker_died(id)
  local submission, alone, poison = unpack(info_of(id, 'submission', 'alone', 'poison'))
  redis.call('HINCRBY', K.JOB_INFO .. id, 'crashes', 1)
  if alone then
    redis.call('HSET', K.JOB_INFO .. id, 'poison', (poison or '') .. ' ' .. alone)
  end
  redis.call('HDEL', K.JOB_INFO .. id, 'alone')
  redis.call('HDEL', K.SUBMISSION .. submission, 'live:' .. id)
end

-- A lease or delay that ends later than it can was set before the clock was set back.
local latest = redis.call(
  'ZREVRANGEBYSCORE', K.QUEUE, '+inf', '(' .. now + lease_ms, 'WITHSCORES', 'LIMIT', 0, REVIVED)
for i = 1, #latest, 2 do
  local id = latest[i]
  local place, deferred, lease = unpack(info_of(id, 'place', 'deferred', 'lease'))
  local longest = tonumber(deferred or lease or lease_ms)
  if place and latest[i + 1] - now > longest then
    redis.call('ZADD', K.QUEUE, now + longest, id)
    bound_ttl(K.LEASE .. id, longest)
  end
end

-- Jobs whose lease or delay is over are ready again.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.QUEUE, 0, now, 'LIMIT', 0, REVIVED)) do
  local left_ms = redis.call('PTTL', K.LEASE .. id)
  local place = redis.call('HGET', K.JOB_INFO .. id, 'place')
  if left_ms >= 0 then
    redis.call('ZADD', K.QUEUE, now + left_ms + 1, id)   -- it ends within this millisecond
  elseif place then
    if redis.call('HDEL', K.JOB_INFO .. id, 'deferred') == 0 then
      worker_died(id)
    end
    make_ready(id, now)
  elseif redis.call('EXISTS', K.JOB .. id) == 1 then
    redis.call('ZREM', K.QUEUE, id)   -- put there by arq's enqueue_job, which knows no collection
    add_job(id, redis.call('GET', K.JOB .. id), 'bulk', '', open[1], '', 0, 0)
  else
    redis.call('ZREM', K.QUEUE, id)   -- arq's abort re-added a job that had just ended
  end
end

-- Waiting jobs that were aborted.
for _, id in ipairs(redis.call('ZRANGE', K.ABORT, 0, REVIVED)) do
  local lane, collection = unpack(info_of(id, 'lane', 'collection'))
  if not lane then
    redis.call('ZREM', K.ABORT, id)   -- it has ended; a later job with this id is not aborted
  elseif #claimed < n and redis.call('EXISTS', K.LEASE .. id) == 0 then
    redis.call('ZREM', K.LANE .. line_of(lane, collection), id)
    redis.call('ZREM', K.POISON .. collection, id)
    redis.call('HDEL', K.JOB_INFO .. id, 'deferred')
    take({id}, collection, 0, 1)
  end
end

-- A poison job is run by a worker that runs nothing else, so that no other job can be blamed.
for _, collection in ipairs(open) do
  local poison = K.POISON .. collection
  if redis.call('ZCARD', poison) > 0 then
    local turn = redis.call('GET', K.POISON_TURN)
    if turn and turn ~= worker then
      bound_ttl(K.POISON_TURN, lease_ms)
      break
    end
    redis.call('SET', K.POISON_TURN, worker, 'PX', lease_ms)   -- refused if out of memory
    if running + #claimed > 0 then
      return {claimed, 1, shut, uncompared}
    end
    redis.call('DEL', K.POISON_TURN)
    take({redis.call('ZPOPMIN', poison)[1]}, collection, 1, 0)
    return {claimed, 0, shut, uncompared}
  end
end

-- Both lanes get their share, and one lane gets what the other does not use.
local free = n - #claimed
local interactive_lines, interactive = lines_of('interactive')
local bulk_lines, bulk = lines_of('bulk')
bulk = math.min(bulk, bulk_n)
if interactive + bulk == 0 or free == 0 then
  return {claimed, 0, shut, uncompared}
end
-- This is also the first write: a server that is out of memory refuses it before a job is taken.
local turn = redis.call('INCRBY', K.LANE_TURN, free)
local for_bulk = math.floor(turn / BULK_TURN) - math.floor((turn - free) / BULK_TURN)
for_bulk = math.min(bulk, math.max(for_bulk, free - interactive))
take_from_lane('interactive', interactive_lines, math.min(interactive, free - for_bulk))
take_from_lane('bulk', bulk_lines, math.min(for_bulk, free))
return {claimed, 0, shut, uncompared}
