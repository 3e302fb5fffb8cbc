-- Delete a dead letter, unless it has changed since it was read.
--
-- ARGV  1 key of the dead letter   2 its content as it was read
-- Returns 1, or 0 if it was deleted or replaced.

if redis.call('HGET', K.DEAD, ARGV[1]) ~= ARGV[2] then
  return 0
end
return delete_dead_letter(ARGV[1])
