-- FAIL: close a hop as failed, and with it the workflow, which keeps the hop's envelope.
-- ARGV: prefix, hop, owner, fence, ttl, failure (JSON), step id ('' for none), error class, where ('' for unknown)
-- Answer: 1 recorded, now or by an earlier call of this claim | 0 overtaken, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence, ttl, failure, step, error_class, where = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset', deadlines, 'zset')
if wrong then return wrong end
local workflow, answer, open = may_close(hop, owner, fence, 'failed')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', hops_key(workflow), 'set', events_key(workflow), 'stream',
  blob_key(workflow), 'hash')
if wrong then return wrong end
wrong = open and misplaced(asked, 'zset')
if wrong then return wrong end

-- Closing first: a full server then lets the workflow end, as it judges a script by its first write.
local envelope = redis.call('HGET', hop_key(hop), 'envelope') or ''
close_hop(hop, owner, 'failed', open)
redis.call('HSET', wf_key(workflow), 'state', 'failed', 'failure', failure, 'envelope', envelope, 'updated_at', int(now))
add_failure(workflow, 'failed', hop, step, error_class, where)
add_failure(workflow, 'workflow_failed', hop, step, error_class, where)
expire(workflow, ttl)
return 1
