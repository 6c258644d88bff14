-- GIVE_BACK: leave a hop that its owner cannot read to newer workers, and give the attempt back. A sweep sends it after a
-- wait that doubles each time, and ends with the workflow's deadline if that comes first. The hop waits as it does for
-- a retry, which every version knows.
-- ARGV: prefix, hop, owner, fence, failure (JSON; what the owner cannot read), step id ('' for none), error class,
--       where ('' for unknown)
-- Answer: 1 recorded, now or by an earlier call of this claim | 0 overtaken, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence, failure, step, error_class, where = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence, 'waiting')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream')
if wrong then return wrong end

local attempt, exhausted, times = unpack(redis.call('HMGET', hop_key(hop), 'attempt', 'exhausted', 'given_back'))
if exhausted ~= '1' then attempt = int(attempt - 1) end
times = tonumber(times) or 0
redis.call('HSET', hop_key(hop), 'state', 'waiting', 'failure', failure, 'attempt', attempt, 'given_back',
  int(times + 1))
redis.call('HDEL', hop_key(hop), 'token', 'claimed_at', 'exhausted')
take_from(owner, hop)
local at = now + math.min(DUE_AFTER * 2 ^ times, DUE_AFTER_MOST)
local deadline = tonumber(redis.call('HGET', wf_key(workflow), 'deadline') or nil)
if deadline and now < deadline and deadline < at then at = deadline end
send_at(hop, at)
redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
list_hop(workflow, hop, 'q')
add_failure(workflow, 'given_back', hop, step, error_class, where)
return 1
