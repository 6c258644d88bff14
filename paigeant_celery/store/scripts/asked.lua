-- ASKED: read open waits of all workflows, oldest first. Those that an older version left behind are removed.
-- ARGV: prefix, since when and token of the last one that was read before (-1 and '' for the first)
-- Answer: {{token, hop, the fields of the wait} for each, {since when, token} of the last one that was looked at; {} at the end}

local _, since, last = unpack(ARGV)

local wrong = misplaced(asked, 'zset')
if wrong then return wrong end

-- Waits of the same moment stand in the order of their tokens.
local at = redis.call('ZCOUNT', asked, '-inf', '(' .. since)
local page
repeat
  page = redis.call('ZRANGE', asked, at, at + ASKED_AT_ONCE - 1, 'WITHSCORES')
  while #page > 0 and tonumber(page[2]) == tonumber(since) and page[1] <= last do
    table.remove(page, 1)
    table.remove(page, 1)
    at = at + 1
  end
until #page > 0 or redis.call('ZCARD', asked) <= at

local found = {}
for i = 1, #page, 2 do
  local token = page[i]
  local hop = token:match('^[^~]*')
  local is_hash = redis.call('TYPE', hop_key(hop)).ok == 'hash'
  local hop_state, wait_state = false, false
  if is_hash then hop_state, wait_state = unpack(redis.call('HMGET', hop_key(hop), 'state', ':state:' .. token)) end
  local is_cut = is_cut_off(hop:match('^[^.]*'), hop)
  if wait_state == 'open' and not has_ended(hop_state, false) and not is_cut then
    found[#found + 1] = { token, hop, fields_of(hop, token) }
  else
    redis.call('ZREM', asked, token)
  end
end
return { found, #page > 0 and { page[#page], page[#page - 1] } or {} }
