-- LETTERS: dead letters, newest first, that are older than the cursor.
-- ARGV: prefix, cursor ('' for the newest), limit
-- Answer: fields and values of each; one that expired is not among them

local _, cursor, limit = unpack(ARGV)

local wrong = misplaced(letters, 'zset')
if wrong then return wrong end
local found = {}
local below = cursor == '' and '+inf' or '(' .. cursor
for _, letter in ipairs(redis.call('ZREVRANGEBYSCORE', letters, below, '-inf', 'LIMIT', 0, limit)) do
  local fields = redis.call('HGETALL', letter_key(letter))
  if #fields > 0 then found[#found + 1] = fields end
end
return found
