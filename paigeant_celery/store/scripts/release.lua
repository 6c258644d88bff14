-- RELEASE: requeue a hop that its owner does not run, and give the attempt back.
-- The next sweep sends its message: the hop counts as overtaken by all others of its queue.
-- ARGV: prefix, hop, owner, fence
-- Answer: 1 released | 0 closed, released or taken by another claim before, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence)
if not workflow then return answer end
wrong = misplaced(events_key(workflow), 'stream')
if wrong then return wrong end

local attempt, exhausted = unpack(redis.call('HMGET', hop_key(hop), 'attempt', 'exhausted'))
if exhausted ~= '1' then attempt = int(attempt - 1) end
redis.call('HSET', hop_key(hop), 'state', 'queued', 'attempt', attempt, 'sent', 0, 'waits', 0,
  'queued_at', int(now))
redis.call('HDEL', hop_key(hop), 'owner', 'token', 'claimed_at', 'exhausted', 'given_back')
take_from(owner, hop)
send_at(hop, now)
list_hop(workflow, hop, 'q')
add_event(workflow, 'type', 'released', 'hop', hop)
return 1
