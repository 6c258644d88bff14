-- BURY: keep a dead letter of a message that was refused.
-- ARGV: prefix, letter, ttl, max letters, field, value, ...
-- Answer: 1 kept | 0 it is there already, nothing changed

local _, letter, ttl, max_letters = unpack(ARGV, 1, 4)

local wrong = misplaced(letter_key(letter), 'hash', letters, 'zset', meta, 'hash')
if wrong then return wrong end
return bury(letter, ttl, max_letters, { unpack(ARGV, 5) })
