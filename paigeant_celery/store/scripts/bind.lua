-- BIND: remember the broker that the prefix belongs to, unless another one is remembered than the caller has read.
-- ARGV: prefix, the address and the id that the caller has read ('' for none), address, id ('' for none)
-- Answer: 1 remembered | 0 another one is, and nothing has changed

local _, old_address, old_id, address, id = unpack(ARGV)

local wrong = misplaced(meta, 'hash')
if wrong then return wrong end
local found = redis.call('HMGET', meta, 'broker', 'broker_id')
if found[1] == address and (found[2] or '') == id then return 1 end -- the client repeats a call if its reply is lost
if (found[1] or '') ~= old_address or (found[2] or '') ~= old_id then return 0 end

redis.call('HSET', meta, 'broker', address)
if id == '' then redis.call('HDEL', meta, 'broker_id') else redis.call('HSET', meta, 'broker_id', id) end
return 1
