-- TOUCH: extend the leases of owners whose processes are there but may not be able to renew. Another process asks this.
-- A lapsed owner is not revived, and none is kept for longer than its steps may take.
-- ARGV: prefix, host, lease, then the owners
-- Answer: {the owners of this host}

local _, host, lease = unpack(ARGV, 1, 3)

local wrong = misplaced(owners, 'zset', host_key(host), 'set')
if wrong then return wrong end

for i = 4, #ARGV do
  local owner = ARGV[i]
  local lease_ends = tonumber(redis.call('ZSCORE', owners, owner) or 0)
  if lease_ends > now and redis.call('EXISTS', touchable_key(owner)) == 1 then
    redis.call('ZADD', owners, int(now + lease), owner)
  end
end
return redis.call('SMEMBERS', host_key(host))
