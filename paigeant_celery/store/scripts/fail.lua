-- FAIL: close a hop as failed, and with it the workflow, which keeps the hop's envelope, or its branch. What it has opened
-- as a block ends with it.
-- ARGV: prefix, hop, owner, fence, ttl, failure (JSON), step id ('' for none), error class, where ('' for unknown),
--       how its branch ended (JSON)
-- Answer: 1 recorded, now or by an earlier call of this claim | {hop, queue, envelope, digest} to be sent, or {}, for the end
--         of a branch that is recorded now | 0 overtaken, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, ttl, failure, step, error_class, where, end_ = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset', deadlines, 'zset')
if wrong then return wrong end
local workflow, answer, open, written, activity, claimed_at = may_close(hop, owner, fence, 'failed')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', hops_key(workflow), 'set', events_key(workflow), 'stream',
  blob_key(workflow), 'hash')
if wrong then return wrong end
wrong = open and misplaced(asked, 'zset')
if wrong then return wrong end
wrong = may_not_close_below(written)
if wrong then return wrong end
local below = written and look_below({ hop }, MOST_AT_ONCE)
local arrival
if block_of(hop) then
  arrival, wrong = plan_arrival(hop, 'failed')
  if wrong then return wrong end
end

-- Closing first: a full server then lets the workflow end, as it judges a script by its first write.
local envelope = redis.call('HGET', hop_key(hop), 'envelope') or ''
close_hop(hop, owner, 'failed', open)
stop_awaiting(workflow, hop, tokens_in(open))
end_block(workflow, hop, below)
note_time(activity, 'r', claimed_at, #gone_waits > 0)
if arrival then
  redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
  add_failure(workflow, 'failed', hop, step, error_class, where)
  local sends = arrive(workflow, hop, arrival, end_)
  drop_gone()
  return sends
end
redis.call('HSET', wf_key(workflow), 'state', 'failed', 'failure', failure, 'envelope', envelope, 'updated_at', int(now))
add_failure(workflow, 'failed', hop, step, error_class, where)
add_failure(workflow, 'workflow_failed', hop, step, error_class, where)
leave_at(workflow, 'f', expire(workflow, ttl))
drop_gone()
return 1
