-- PROBE: which commands of the scripts the rules of this user do not permit under the prefix. Leaves no key behind.
-- ARGV: prefix
-- Answer: {names of commands}, or 'keys' alone if the keys themselves are not permitted

local key = prefix .. ':probe:'
local hash, set, zset, stream, text = key .. 'hash', key .. 'set', key .. 'zset', key .. 'stream', key .. 'text'
local tried = {
  {'HSET', hash, 'field', '1'}, {'HGET', hash, 'field'}, {'HMGET', hash, 'field'}, {'HGETALL', hash},
  {'HKEYS', hash}, {'HEXISTS', hash, 'field'}, {'HSTRLEN', hash, 'field'}, {'HINCRBY', hash, 'field', '1'}, {'HDEL', hash, 'field'},
  {'SADD', set, 'member'}, {'SMEMBERS', set}, {'SCARD', set}, {'SREM', set, 'member'}, {'SPOP', set},
  {'ZADD', zset, '1', 'member'}, {'ZCARD', zset}, {'ZSCORE', zset, 'member'}, {'ZRANGE', zset, '0', '-1'},
  {'ZCOUNT', zset, '0', '1'},
  {'ZRANGEBYLEX', zset, '-', '+'}, {'ZLEXCOUNT', zset, '-', '+'}, {'ZREMRANGEBYSCORE', zset, '2', '3'},
  {'ZRANGEBYSCORE', zset, '0', '1'}, {'ZREVRANGEBYSCORE', zset, '1', '0'}, {'ZREM', zset, 'member'},
  {'XADD', stream, '*', 'type', 'probe'}, {'XRANGE', stream, '-', '+'}, {'XREVRANGE', stream, '+', '-'},
  {'TYPE', stream}, {'EXISTS', stream}, {'PERSIST', stream}, {'PEXPIREAT', stream, int(now + DUE_AFTER)},
  {'PEXPIRE', stream, int(DUE_AFTER)},
  {'SET', text, '', 'PX', int(DUE_AFTER)}, {'PTTL', text},
  {'UNLINK', hash}, {'DEL', hash, set, zset, stream, text},
}
local refused = {}
for _, command in ipairs(tried) do
  local answer = redis.pcall(unpack(command))
  local said = type(answer) == 'table' and answer.err or ''
  if said:find('NOPERM') or said:find('ACL failure') or said:find("user executing the script can't") then
    if said:find('access') then return {'keys'} end
    table.insert(refused, command[1])
  end
end
return refused
