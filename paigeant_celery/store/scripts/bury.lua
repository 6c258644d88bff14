-- BURY: keep a dead letter of a refused message. If there are too many, the oldest is dropped and counted.
-- ARGV: prefix, letter, ttl, field, value, ...
-- Answer: 1 kept | 0 it was already kept, nothing changed

local _, letter, ttl = unpack(ARGV, 1, 3)

local wrong = misplaced(letter_key(letter), 'hash', letters, 'zset', meta, 'hash')
if wrong then return wrong end
if redis.call('EXISTS', letter_key(letter)) == 1 then return 0 end

-- Expired letters are at the old end. After a quiet time there may be many; later letters remove the rest.
for _, old in ipairs(redis.call('ZRANGE', letters, 0, LETTERS_AT_ONCE - 1)) do
  if redis.call('EXISTS', letter_key(old)) == 1 then break end
  redis.call('ZREM', letters, old)
end
if redis.call('ZCARD', letters) >= MAX_LETTERS then
  local oldest = redis.call('ZRANGE', letters, 0, 0)[1]
  redis.call('ZREM', letters, oldest)
  redis.call('DEL', letter_key(oldest))
  redis.call('HINCRBY', meta, 'letters_dropped', 1)
end

local cursor = write_letter(letter, { unpack(ARGV, 4) })
redis.call('PEXPIREAT', letter_key(letter), int(now + ttl))
redis.call('ZADD', letters, cursor, letter)
return 1
