-- EDIT: replace the envelope of a parked or suspended hop, with its digest. Copies of its earlier messages are dropped
-- from then on. Whoever redrives or wakes it sends the new one.
-- ARGV: prefix, hop, digest that it must have, queue, envelope, digest, '1' if its step is another one (what its attempts
--       have recorded is then discarded), by, token (of this call, which may be repeated), activity and id of its step ('' each
--       if they are unknown), then name, text for each blob
-- Answer: 'edited' | 'unknown' | 'ended' | 'goes_on' (it is neither parked nor suspended) | 'changed' (somebody was
--         faster) | 'begun' (the step has opened branches, or waits), or the error FORMAT if a newer worker has begun

local _, hop, instead_of, queue, envelope, digest, restarts, by, token, activity, step = unpack(ARGV, 1, 11)

local wrong = misplaced(hop_key(hop), 'hash', asked, 'zset')
if wrong then return wrong end
if is_outdated then return outdated() end
local found = redis.call('HMGET', hop_key(hop), 'workflow', 'state', 'digest', 'superseded', 'edited_by', 'block:written')
local workflow, state, current, superseded, edited_by, written = unpack(found)
if is_unknown(hop) then return 'unknown' end
if not (workflow and state and current) then return corrupt(hop_key(hop), 'lacks fields') end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream', blob_key(workflow), 'hash', journal_key(hop),
  'hash')
if wrong then return wrong end
if edited_by == token then return 'edited' end
if ENDED[state] then return 'ended' end
local is_cut
is_cut, wrong = is_cut_off(workflow, hop)
if wrong then return wrong end
if is_cut then return 'ended' end
if state ~= 'parked' and state ~= 'suspended' then return 'goes_on' end
if current ~= instead_of then return 'changed' end
if restarts == '1' and (state == 'suspended' or (tonumber(written) or 0) > 0) then return 'begun' end

-- The latest ones, of which messages may still be on their way; none that is the hop's own again.
local old = { current }
for each in (superseded or ''):gmatch('%S+') do
  if #old < MOST_SUPERSEDED and each ~= digest then old[#old + 1] = each end
end

-- Writes that need memory come first: a full server refuses a script at its first write, or not at all.
redis.call('HSET', hop_key(hop), 'envelope', envelope, 'digest', digest, 'superseded', table.concat(old, ' '), 'edited_by',
  token)
for i = 12, #ARGV, 2 do redis.call('HSET', blob_key(workflow), ARGV[i], ARGV[i + 1]) end
if restarts == '1' then
  -- It may go to another queue, and its numbers are those of the one before.
  redis.call('HSET', hop_key(hop), 'queue', queue, 'sent', 0, 'first', 0)
  redis.call('DEL', journal_key(hop))
  redis.call('HDEL', hop_key(hop), 'heard', 'counted') -- what was paid stays in the workflow's sums
  return_signals(workflow, hop)
  forget_waits(workflow, hop)
end
redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
if activity ~= '' and not block_of(hop) then relist(workflow, activity, step) end
drop_gone()
if by == '' then
  add_event(workflow, 'type', 'edited', 'hop', hop)
else
  add_event(workflow, 'type', 'edited', 'hop', hop, 'by', by)
end
return 'edited'
