-- SIGNAL: settle the oldest open wait of the workflow's hops for a signal of this name, or keep the signal for one to come.
-- If that ends a wait, a suspended hop is queued, and the caller sends its message.
-- ARGV: prefix, workflow, name, text (JSON), who gives it, id of the signal, with what the id of its hop
--       must begin ('' for any; if it is given, the signal is not kept)
-- Answer: {'settled' | 'kept' | 'repeated' | 'ended' | 'too_many' (are kept) | 'unknown', {the fields of the wait that it
--         settled}, {hop, queue, envelope, digest} to be sent or {}}

local _, workflow, name, text, by, call, below = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', blob_key(workflow), 'hash', events_key(workflow), 'stream',
  asked, 'zset', asleep, 'zset', due, 'zset', sent_key, 'hash')
if wrong then return wrong end
local state, hop, deadline = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop', 'deadline'))
if not state then return { 'unknown', {}, {} } end
if not hop then return corrupt(wf_key(workflow), 'names no hop') end
wrong = misplaced(hop_key(hop), 'hash')
if wrong then return wrong end
local is_known, in_branches = unpack(redis.call('HMGET', blob_key(workflow), id_field(call), asked_field(name)))
if is_known then return { 'repeated', {}, {} } end
local hop_state, open = unpack(redis.call('HMGET', hop_key(hop), 'state', ':open'))
if (state ~= 'running' and state ~= 'parked') or has_ended(hop_state, deadline) then return { 'ended', {}, {} } end

-- The open waits for it up to the first whose time is not over, oldest first.
local found = {}
local function find(each, token, passes_at, since)
  found[#found + 1] = { hop = each, token = token, is_over = has_passed(passes_at), since = tonumber(since or nil) or 0,
    number = #found }
  return not found[#found].is_over
end
if below == '' then
  local tokens = tokens_in(open)
  local kinds, names, untils, since = values_of(hop, tokens, 'kind', 'name', 'until', in_branches and 'since' or nil)
  for i, token in ipairs(tokens) do
    if kinds[i] == 'signal' and names[i] == name and find(hop, token, untils[i], in_branches and since[i]) then break end
  end
end
local most = #found + WOKEN_AT_ONCE -- of those in branches whose time is over; the others are left to sweeps
for _, token in ipairs(tokens_in(in_branches)) do
  local each = token:match('^[^~]*')
  if each:sub(1, #below) == below and not is_cut_off(workflow, each) then
    local its_state, is_open, passes_at, since = unpack(redis.call('HMGET', hop_key(each), 'state', ':state:' .. token,
      ':until:' .. token, ':since:' .. token))
    if is_open == 'open' and not has_ended(its_state, false) and (#found < most or not has_passed(passes_at)) then
      if find(each, token, passes_at, since) then break end
    end
  end
end
if in_branches then
  table.sort(found, function(one, other)
    if one.since ~= other.since then return one.since < other.since end
    return one.number < other.number
  end)
end
local wait
local passed = {}
for _, each in ipairs(found) do
  wrong = may_not_wake(workflow, each.hop)
  if wrong then return wrong end
  wait = not each.is_over and each
  if wait then break end
  passed[#passed + 1] = each
end
local is_full = not wait and below == '' and kept_signals(workflow) >= MAX_SIGNALS

-- Writes that need memory come first.
if wait or (below == '' and not is_full) then remember_signal(workflow, call) end
local woken = {}
local function wake_too(each)
  local sends = wake(workflow, each)
  if #sends > 0 then woken = sends end
end
for first, each in ipairs(passed) do
  if first == 1 or passed[first - 1].hop ~= each.hop then wake_too(each.hop) end
end
if wait then wake_too(wait.hop) end
for _, each in ipairs(passed) do give_up_passed(each.hop, workflow, { each.token }) end
if not wait then drop_gone() end
if is_full then return { 'too_many', {}, woken } end
if not wait and below ~= '' then return { 'unknown', {}, woken } end
if not wait then
  keep_signal(workflow, name, call, by, text)
  add_event(workflow, 'type', 'signalled', 'hop', hop, 'name', name, 'by', by)
  return { 'kept', {}, woken }
end
note_answer(wait.hop, wait.token, 1, call, by, int(now), text)
end_waits(workflow, wait.hop, { wait.token }, 'settled')
drop_gone()
add_event(workflow, 'type', 'answered', 'hop', wait.hop, 'wait', name, 'by', by)
return { 'settled', fields_of(wait.hop, wait.token), woken }
