-- REDRIVE: queue a parked hop of a workflow again, with all its attempts. The next sweep sends its message: the hop
-- counts as overtaken by all others of its queue.
-- ARGV: prefix, workflow, token (of this call, which may be repeated), '1' to discard the hop's journal, hop ('' for the
--       workflow's own)
-- Answer: 'redriven' | 'not_parked' | 'unknown', or the error FORMAT if a newer worker has begun: this begins something

local _, workflow, token, discard, hop = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream', due, 'zset', parked, 'zset',
  kept_letters, 'zset', deadlines, 'zset', asked, 'zset')
if wrong then return wrong end
if is_outdated then return outdated() end
local state, current = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop'))
if not state then return 'unknown' end
local is_current = hop == '' or hop == current
if hop == '' then hop = current end
wrong = misplaced(hop_key(hop or ''), 'hash', blob_key(workflow), 'hash')
if wrong then return wrong end
if hop and redis.call('HGET', hop_key(hop), 'redriven_by') == token then return 'redriven' end
local hop_state = hop and redis.call('HGET', hop_key(hop), 'state')
if hop_state ~= 'parked' then
  if state ~= 'parked' or not is_current or hop_state == 'suspended' then return 'not_parked' end
  return corrupt(wf_key(workflow), 'names no parked hop')
end
local is_cut
is_cut, wrong = is_cut_off(workflow, hop)
if wrong then return wrong end
if is_cut then return 'not_parked' end
local above = block_of(hop)
wrong = above and misplaced(hop_key(above), 'hash')
if wrong then return wrong end

drop_letter(hop)
redis.call('HSET', hop_key(hop), 'redriven_by', token, 'state', 'queued', 'attempt', 0, 'sent', 0, 'waits', 0,
  'queued_at', int(now))
redis.call('HDEL', hop_key(hop), 'owner', 'failure', 'given_back')
redis.call('ZREM', parked, hop)
if discard == '1' then
  redis.call('DEL', journal_key(hop))
  redis.call('HDEL', hop_key(hop), 'heard', 'counted') -- what was paid stays in the workflow's sums
  return_signals(workflow, hop)
  forget_waits(workflow, hop)
end
send_at(hop, now)
redis.call('HDEL', wf_key(workflow), 'failure')
if above then
  redis.call('HINCRBY', hop_key(above), 'block:under_way', 1)
  count_live(workflow, hop, 1)
  settle(workflow)
  redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
else
  if state == 'parked' then await_deadline(workflow, redis.call('HGET', wf_key(workflow), 'deadline')) end
  redis.call('HSET', wf_key(workflow), 'state', 'running', 'updated_at', int(now))
  list(workflow, 'q')
end
if discard == '1' then
  add_event(workflow, 'type', 'redriven', 'hop', hop, 'journal', 'discarded')
else
  add_event(workflow, 'type', 'redriven', 'hop', hop)
end
drop_gone()
return 'redriven'
