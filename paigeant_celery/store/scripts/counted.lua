-- COUNTED: how many workflows stand at which activities, by state.
-- ARGV: prefix, behind which activity, of how many at most
-- Answer: {{activity, {how many in each state, in the order of q r t s c f p x}}, ...}, 1 if there may be more

local _, after, most = unpack(ARGV)

local wrong = misplaced(index, 'zset')
if wrong then return wrong end
for _ = 1, 5 do
  if drop_expired(EXPIRED_LISTED) < EXPIRED_LISTED then break end
end

local found = {}
local from = after == '' and '[a' or '(a' .. after .. ';'
while #found < tonumber(most) do
  local text = redis.call('ZRANGEBYLEX', index, from, '(b', 'LIMIT', 0, 1)[1]
  if not text then return { found, 0 } end
  local activity = text:match('^a([^:]*):')
  if not activity then return corrupt(index, 'has an entry that is none of ours') end
  local counts = {}
  for letter in ('qrtscfpx'):gmatch('.') do
    local begins = 'a' .. activity .. ':' .. letter
    counts[#counts + 1] = redis.call('ZLEXCOUNT', index, '[' .. begins, '(' .. begins .. ':')
  end
  found[#found + 1] = { activity, counts }
  from = '(a' .. activity .. ';'
end
return { found, 1 }
