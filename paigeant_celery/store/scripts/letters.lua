-- LETTERS: dead letters, newest first, that are older than the cursor.
-- ARGV: prefix, cursor ('' for the newest), limit
-- Answer: fields and values of each; expired ones are left out

local _, cursor, limit = unpack(ARGV)

local wrong = misplaced(letters, 'zset', kept_letters, 'zset')
if wrong then return wrong end
local found = {}

-- The next letters of an index, as {letter, cursor, ...}.
local function older(index, below)
  return redis.call('ZREVRANGEBYSCORE', index, below, '-inf', 'WITHSCORES', 'LIMIT', 0, LETTERS_AT_ONCE)
end

local below = cursor == '' and '+inf' or '(' .. cursor
local refused, parked_ones, at = older(letters, below), older(kept_letters, below), { 1, 1 }
local indexes, pages = { letters, kept_letters }, { refused, parked_ones }
while #found < tonumber(limit) do
  local newest
  for i = 1, 2 do
    if at[i] > #pages[i] and #pages[i] > 0 then
      pages[i], at[i] = older(indexes[i], '(' .. pages[i][#pages[i]]), 1
    end
    local score = tonumber(pages[i][at[i] + 1])
    if score and (not newest or score > tonumber(pages[newest][at[newest] + 1])) then newest = i end
  end
  if not newest then break end
  local fields = redis.call('HGETALL', letter_key(pages[newest][at[newest]]))
  if #fields > 0 then found[#found + 1] = fields end
  at[newest] = at[newest] + 2
end
return found
