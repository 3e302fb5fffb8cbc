-- Count the jobs on the queue for some collections.
--
-- ARGV  the collections
-- Returns {jobs, how many of them are in flight}.

local wanted, jobs, in_flight = {}, 0, 0
for _, collection in ipairs(ARGV) do
  wanted[collection] = true
  jobs = jobs + ready_for(collection)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.QUEUE, 0, '+inf')) do
  if wanted[redis.call('HGET', K.JOB_INFO .. id, 'collection')] then
    jobs = jobs + 1
    in_flight = in_flight + redis.call('EXISTS', K.LEASE .. id)
  end
end
return {jobs, in_flight}
