-- Put one job on the queue, unless its lane or the whole queue is full.
--
-- ARGV  1 job id       2 payload   3 lane   4 tenant   5 collection
--       6 submission   7 documents in the job   8 the largest version in the job
--       9 limit of the queue in jobs    10 in bytes    11 limit of a lane in jobs    12 in bytes
--       13 ms of the steady clock after which the job is refused, '' for no limit
-- Returns 'accepted', 'duplicate', 'full' or 'expired', see `offer`.

return offer(unpack(ARGV))
