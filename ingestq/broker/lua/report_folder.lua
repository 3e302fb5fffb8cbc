-- Record the state of a watched folder, and forget folders of which nothing was heard for too long.
--
-- ARGV  1 folder   2 its state (MessagePack)   3 ms after which a folder is forgotten

local now = now_ms()
redis.call('ZADD', K.WATCHED_FOLDERS, now, ARGV[1])
redis.call('HSET', K.WATCHED_FOLDER_INFO, ARGV[1], ARGV[2])
for _, folder in ipairs(remove_silent(K.WATCHED_FOLDERS, now, ARGV[3])) do
  redis.call('HDEL', K.WATCHED_FOLDER_INFO, folder)
end
return 1
