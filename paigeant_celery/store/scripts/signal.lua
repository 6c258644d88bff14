-- SIGNAL: settle the oldest open wait of the workflow's hop for a signal of this name, or keep the signal for one to come.
-- If that ends a wait, a suspended hop is queued, and the caller sends its message.
-- ARGV: prefix, workflow, name, text (JSON), who gives it, id of the signal
-- Answer: {'settled' | 'kept' | 'repeated' | 'ended' | 'too_many' (are kept) | 'unknown', {the fields of the wait that it
--         settled}, {hop, queue, envelope, digest} to be sent or {}}

local _, workflow, name, text, by, call = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', blob_key(workflow), 'hash', events_key(workflow), 'stream',
  asked, 'zset', asleep, 'zset', due, 'zset', sent_key, 'hash')
if wrong then return wrong end
local state, hop, deadline = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop', 'deadline'))
if not state then return { 'unknown', {}, {} } end
if not hop then return corrupt(wf_key(workflow), 'names no hop') end
wrong = misplaced(hop_key(hop), 'hash')
if wrong then return wrong end
if is_known_signal(workflow, call) then return { 'repeated', {}, {} } end
local hop_state, open = unpack(redis.call('HMGET', hop_key(hop), 'state', ':open'))
if (state ~= 'running' and state ~= 'parked') or has_ended(hop_state, deadline) then return { 'ended', {}, {} } end
wrong = may_not_wake(hop)
if wrong then return wrong end

local tokens = tokens_in(open)
local kinds, names, untils = values_of(hop, tokens, 'kind', 'name', 'until')
local token
local passed = {}
for i, each in ipairs(tokens) do
  if kinds[i] == 'signal' and names[i] == name then
    token = not has_passed(untils[i]) and each
    if token then break end
    passed[#passed + 1] = each
  end
end
local is_full = not token and kept_signals(workflow) >= MAX_SIGNALS

-- Writes that need memory come first.
if not is_full then remember_signal(workflow, call) end
local woken = (token or #passed > 0) and wake(hop) or {}
if #passed > 0 then give_up_passed(hop, workflow, passed) end
if is_full then return { 'too_many', {}, woken } end
if not token then
  keep_signal(workflow, name, call, by, text)
  add_event(workflow, 'type', 'signalled', 'hop', hop, 'name', name, 'by', by)
  return { 'kept', {}, woken }
end
note_answer(hop, token, 1, call, by, int(now), text)
end_waits(hop, { token }, 'settled')
add_event(workflow, 'type', 'answered', 'hop', hop, 'wait', name, 'by', by)
return { 'settled', fields_of(hop, token), woken }
