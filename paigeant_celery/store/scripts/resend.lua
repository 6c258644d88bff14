-- RESEND: have the next sweeps send queued hops whatever waits on their queues, in the order in which they were due.
-- ARGV: prefix
-- Answer: how many hops; there may be more until it is 0

local wrong = misplaced(due, 'zset')
if wrong then return wrong end
local found = redis.call('ZRANGEBYSCORE', due, 0, '+inf', 'LIMIT', 0, MOST_LOOKED_AT)
for i, hop in ipairs(found) do
  -- A key of another type is left to the sweep, which says so.
  if not misplaced(hop_key(hop), 'hash') then redis.call('HSET', hop_key(hop), 'sent', 0, 'waits', 0) end
  send_at(hop, now - #found + i)
end
return #found
