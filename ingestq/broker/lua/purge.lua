-- Delete a dead letter, unless it has changed since it was read.
--
-- ARGV  1 key of the dead letter   2 its content as it was read   3 id of the call
-- Returns 1, or 0 if it was deleted or replaced.

if redis.call('HGET', K.DEAD, ARGV[1]) ~= ARGV[2] then
  return answer_of(ARGV[3]) or 0
end
return remember(ARGV[3], delete_dead_letter(ARGV[1]))
