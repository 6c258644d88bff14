-- CANCEL: end a workflow wherever its hops are. A run in progress learns of it at its next renewal and can write nothing.
-- ARGV: prefix, workflow, ttl
-- Answer: 'cancelled', now or before | 'ended' in another way before | 'unknown'

local _, workflow, ttl = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', hops_key(workflow), 'set', events_key(workflow), 'stream',
  blob_key(workflow), 'hash', due, 'zset', parked, 'zset', owners, 'zset', kept_letters, 'zset',
  deadlines, 'zset', asleep, 'zset', asked, 'zset')
if wrong then return wrong end
local state, hop = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop'))
if not state then return 'unknown' end
if state == 'cancelled' then return state end
if state ~= 'running' and state ~= 'parked' then return 'ended' end
if not hop then return corrupt(wf_key(workflow), 'names no hop') end
wrong = misplaced(hop_key(hop), 'hash')
if wrong then return wrong end
local owner, envelope, open, written =
  unpack(redis.call('HMGET', hop_key(hop), 'owner', 'envelope', ':open', 'block:written'))
wrong = written and misplaced(ending, 'zset')
if wrong then return wrong end
local below = written and look_below({ hop }, MOST_AT_ONCE)
if owner then
  wrong = misplaced(owner_key(owner), 'set', host_key(owner), 'set')
  if wrong then return wrong end
  take_from(owner, hop)
end

redis.call('ZREM', due, hop)
redis.call('ZREM', parked, hop)
redis.call('ZREM', asleep, hop)
withdraw_waits(open)
unlist_waits(hop, tokens_in(open))
drop_letter(hop)
redis.call('HDEL', hop_key(hop), 'envelope', 'owner', 'token', 'failure')
redis.call('HSET', hop_key(hop), 'state', 'cancelled')
redis.call('HDEL', wf_key(workflow), 'failure')
redis.call('HSET', wf_key(workflow), 'state', 'cancelled', 'envelope', envelope or '', 'updated_at', int(now))
end_block(workflow, hop, below)
add_event(workflow, 'type', 'workflow_cancelled', 'hop', hop)
leave_at(workflow, 'x', expire(workflow, ttl))
drop_gone()
return 'cancelled'
