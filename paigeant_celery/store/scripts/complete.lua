-- COMPLETE: close a hop as done, and record the next one or the end of the workflow, or of its branch. What it has opened
-- as a block ends with it.
-- ARGV: prefix, hop, owner, fence, ttl, notes (JSON list of flat lists name, value, ...),
--       step ('' if unknown), next hop ('' at the end), its queue, envelope (the next hop's, or the final one), its digest,
--       the activity and the id of its step,
--       how its branch ended (JSON), what the step used ('' for a workflow without limits), where its conversation is kept
--       ('' for none, 'workflow', 'anywhere'), the name of that, the bytes that the step
--       said in it, how many pieces they come in, the pieces, how many records the journal gets,
--       key, record for each, then step id, JSON text for each blob
-- Answer: 1 recorded, now or by an earlier call of this claim | {hop, queue, envelope, digest} to be sent, or {}, for the end
--         of a branch that is recorded now | 0 overtaken, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, ttl, notes, step, next_hop, queue, envelope, digest = unpack(ARGV, 1, 11)
local next_activity, next_step, end_, exact, where, name, size, pieces = unpack(ARGV, 12, 12 + 7)
local first_piece = 12 + 8
local first_record = first_piece + pieces + 1
local first_blob = first_record + 2 * ARGV[first_record - 1]

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset', sent_key, 'hash', deadlines, 'zset')
if wrong then return wrong end
local workflow, answer, open, written, activity, claimed_at = may_close(hop, owner, fence, 'done')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', hops_key(workflow), 'set', events_key(workflow), 'stream',
  blob_key(workflow), 'hash')
if wrong then return wrong end
wrong = open and misplaced(asked, 'zset')
if wrong then return wrong end
if first_blob > first_record then
  wrong = misplaced(journal_key(hop), 'hash')
  if wrong then return wrong end
end
local log, start
if where ~= '' then
  log, start = conversation_at(workflow, where, name)
  wrong = misplaced(log, 'hash')
  if wrong then return wrong end
end
local used, counted
if exact ~= '' then
  used, counted, wrong = totals(workflow, hop)
  if wrong then return wrong end
end
if next_hop ~= '' and redis.call('EXISTS', hop_key(next_hop)) == 1 then
  return corrupt(hop_key(next_hop), 'was there before it was recorded')
end
local above, number = block_of(hop)
wrong = may_not_close_below(written) or (above and misplaced(hop_key(above), 'hash'))
if wrong then return wrong end
local below = written and look_below({ hop }, MOST_AT_ONCE)
local arrival
if above and next_hop == '' then
  arrival, wrong = plan_arrival(hop, 'succeeded')
  if wrong then return wrong end
end
notes = cjson.decode(notes)

-- Writes that need memory come first: a full server refuses a script at its first write, or not at all.
if log then
  if redis.call('HGET', log, start .. 'log') == false then
    redis.call('HSET', log, start .. 'log', hop .. '@' .. int(now))
  end
  for i = first_piece, first_record - 2 do
    redis.call('HSET', log, start .. redis.call('HINCRBY', log, start .. 'pieces', 1), ARGV[i])
  end
  redis.call('HINCRBY', log, start .. 'size', size)
  if where == 'anywhere' then redis.call('PEXPIREAT', log, int(now + ttl)) end
end
if not above then
  for i = first_record, first_blob - 1, 2 do redis.call('HSET', journal_key(hop), ARGV[i], ARGV[i + 1]) end
end
for i = first_blob, #ARGV, 2 do redis.call('HSET', blob_key(workflow), ARGV[i], ARGV[i + 1]) end
if used then redis.call('HSET', wf_key(workflow), 'used', sums_text(used, sums_in(exact), counted)) end
if next_hop ~= '' then queue_hop(workflow, next_hop, queue, envelope, digest, next_activity) end
close_hop(hop, owner, 'done', open)
if above then redis.call('UNLINK', journal_key(hop)) end -- nobody reads it any more, and there are as many as branches
stop_awaiting(workflow, hop, tokens_in(open))
end_block(workflow, hop, below)
note_time(activity, 'r', claimed_at, #gone_waits > 0)
for _, note in ipairs(notes) do add_event(workflow, unpack(note)) end
local sends = 1
if above then
  redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
  if next_hop ~= '' then
    redis.call('HSET', hop_key(above), 'branch:' .. number, next_hop)
    add_event(workflow, 'type', 'completed', 'hop', hop, with_step(step, 'next_hop', next_hop))
  else
    add_event(workflow, 'type', 'completed', 'hop', hop, with_step(step))
    sends = arrive(workflow, hop, arrival, end_)
  end
elseif next_hop ~= '' then
  redis.call('HSET', wf_key(workflow), 'hop', next_hop, 'updated_at', int(now))
  list(workflow, 'q', next_activity, next_step)
  add_event(workflow, 'type', 'completed', 'hop', hop, with_step(step, 'next_hop', next_hop))
else
  redis.call('HSET', wf_key(workflow), 'state', 'completed', 'envelope', envelope, 'updated_at', int(now))
  add_event(workflow, 'type', 'completed', 'hop', hop, with_step(step))
  add_event(workflow, 'type', 'workflow_completed', 'hop', hop)
  leave_at(workflow, 'c', expire(workflow, ttl))
end
drop_gone()
return sends
