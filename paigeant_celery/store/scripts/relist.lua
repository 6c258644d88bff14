-- RELIST: list workflows that older versions recorded, as their records say.
-- ARGV: prefix, then workflow, activity, id of its step for each ('' each if they are unknown)
-- Answer: {how many were done before the answer grew too large, workflow, envelope, ... of those of whose step the list
--         says nothing, or may say it of an earlier one}

-- What the current hop of a workflow waits for is listed as well; what hops in branches do, only when they wait anew.
local function list_waits_of(listed)
  local hop = redis.pcall('HGET', wf_key(listed.workflow), 'hop')
  if type(hop) ~= 'string' then return end
  local state, open, age = unpack(redis.pcall('HMGET', hop_key(hop), 'state', ':open', ':age'))
  local tokens = tokens_in(open or nil)
  if age or #tokens == 0 or ENDED[state] then return end
  redis.pcall('HSET', hop_key(hop), ':age', listed.age)
  local texts = {}
  add_waits(texts, hop, tokens)
  for _, text in ipairs(texts) do redis.pcall('ZADD', index, 0, text) end
end

local unknown, bytes = { (#ARGV - 1) / 3 }, 0
for i = 2, #ARGV, 3 do
  local workflow, activity, step = unpack(ARGV, i, i + 2)
  if activity == '' then activity, step = nil, nil end
  local text, hop, is_unsure = relist(workflow, activity, step)
  leave_with(text)
  local listed = listing_in(text)
  if listed then list_waits_of(listed) end
  bytes = bytes + add_unsure(unknown, text, hop, is_unsure)
  if bytes >= MOST_BYTES then
    unknown[1] = (i + 1) / 3
    break
  end
end
return unknown
