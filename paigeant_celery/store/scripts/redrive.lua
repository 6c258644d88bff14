-- REDRIVE: queue the parked hop of a workflow again, with all its attempts. The next sweep sends its message: the hop
-- counts as overtaken by all others of its queue.
-- ARGV: prefix, workflow, token (of this call, which may be repeated), '1' to discard the hop's journal
-- Answer: 'redriven' | 'not_parked' | 'unknown', or the error FORMAT if a newer worker has begun: this begins something

local _, workflow, token, discard = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream', due, 'zset', parked, 'zset',
  kept_letters, 'zset', deadlines, 'zset', asked, 'zset')
if wrong then return wrong end
if is_outdated then return outdated() end
local state, hop = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop'))
if not state then return 'unknown' end
wrong = misplaced(hop_key(hop or ''), 'hash', blob_key(workflow), 'hash')
if wrong then return wrong end
if hop and redis.call('HGET', hop_key(hop), 'redriven_by') == token then return 'redriven' end
if state ~= 'parked' then return 'not_parked' end
if not hop or redis.call('HGET', hop_key(hop), 'state') ~= 'parked' then
  return corrupt(wf_key(workflow), 'names no parked hop')
end

drop_letter(hop)
redis.call('HSET', hop_key(hop), 'redriven_by', token, 'state', 'queued', 'attempt', 0, 'sent', 0, 'waits', 0)
redis.call('HDEL', hop_key(hop), 'owner', 'failure', 'given_back')
redis.call('ZREM', parked, hop)
if discard == '1' then
  redis.call('DEL', journal_key(hop))
  redis.call('HDEL', hop_key(hop), 'heard', 'counted') -- what was paid stays in the workflow's sums
  return_signals(workflow, hop)
  forget_waits(hop)
end
send_at(hop, now)
await_deadline(workflow, redis.call('HGET', wf_key(workflow), 'deadline'))
redis.call('HDEL', wf_key(workflow), 'failure')
redis.call('HSET', wf_key(workflow), 'state', 'running', 'updated_at', int(now))
if discard == '1' then
  add_event(workflow, 'type', 'redriven', 'hop', hop, 'journal', 'discarded')
else
  add_event(workflow, 'type', 'redriven', 'hop', hop)
end
return 'redriven'
