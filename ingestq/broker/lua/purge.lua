-- Delete a dead letter, unless it changed since it was read.
--
-- ARGV  1 key of the letter   2 the letter as it was read
-- Answers 1, or 0 if the letter is gone or another one.

if redis.call('HGET', K.DEAD, ARGV[1]) ~= ARGV[2] then
  return 0
end
return remove_letter(ARGV[1])
