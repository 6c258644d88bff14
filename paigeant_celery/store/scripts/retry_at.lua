-- RETRY_AT: let a hop whose attempt failed wait, owned by nobody, until a sweep sends its message again.
-- ARGV: prefix, hop, owner, fence, delay, failure (JSON), step id ('' for none), error class,
--       where ('' for unknown)
-- Answer: 1 recorded, now or by an earlier call of this claim | 0 overtaken, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence, delay, failure, step, error_class, where = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence, 'waiting')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream')
if wrong then return wrong end

redis.call('HSET', hop_key(hop), 'state', 'waiting', 'failure', failure)
redis.call('HDEL', hop_key(hop), 'token', 'claimed_at', 'exhausted', 'given_back')
take_from(owner, hop)
send_at(hop, now + delay)
redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
list_hop(workflow, hop, 't')
add_failure(workflow, 'retrying', hop, step, error_class, where, 'delay_ms', delay)
return 1
