-- Put one job on the queue, in one step, unless its lane or the whole queue is full.
--
-- ARGV  1 job id       2 payload   3 lane   4 tenant   5 submission   6 documents in the job
--       7 seconds to keep the submission
--       8 bound of the queue in jobs    9 in bytes    10 bound of a lane in jobs    11 in bytes
--       12 ms until when the job is let in, '' for ever
-- Answers 'accepted', 'duplicate', 'full' or 'expired', see `offer`.

return offer(unpack(ARGV))
