-- List the API tokens.
--
-- Returns {the time in ms, tokens}. A token is {id, fields}.

local names, tokens = redis.call('HGETALL', K.TOKENS), {}
for i = 2, #names, 2 do
  local fields = redis.call('HGETALL', K.TOKEN .. names[i])
  if #fields > 0 then   -- Redis may have evicted it
    tokens[#tokens + 1] = {names[i], fields}
  end
end
return {now_ms(), tokens}
