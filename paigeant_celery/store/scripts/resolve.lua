-- RESOLVE: answer parts of a wait, all or none. The first answer of each part counts. If that ends the wait, a suspended
-- hop is queued, and the caller sends its message.
-- ARGV: prefix, token, who answers, id of this call, then part, text (JSON) for each part
-- Answer: {'settled' | 'recorded' (other parts are open) | 'answered' (by another call) | 'late' | 'unknown', {the fields of
--         the wait}, {hop, queue, envelope, digest} to be sent or {}}

local _, token, by, call = unpack(ARGV, 1, 4)
local hop = token:match('^[^~]*')

local wrong = misplaced(hop_key(hop), 'hash', asked, 'zset', asleep, 'zset', due, 'zset', sent_key, 'hash')
if wrong then return wrong end
local workflow, hop_state = unpack(redis.call('HMGET', hop_key(hop), 'workflow', 'state'))
local before = fields_of(hop, token)
if #before == 0 or is_unknown(hop) then return { 'unknown', {}, {} } end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream') or
  (block_of(hop) and misplaced(blob_key(workflow), 'hash'))
if wrong then return wrong end
local wait = {}
for i = 1, #before, 2 do wait[before[i]] = before[i + 1] end
local function of_wait(of) return wait[':' .. of .. ':' .. token] end

local places, open_parts = {}, 0
for place = 1, tonumber(of_wait('parts')) or 0 do
  places[wait[':part:' .. token .. ':' .. place]] = place
  if not wait[':call:' .. token .. ':' .. place] then open_parts = open_parts + 1 end
end
local is_known, is_repeated, is_answered, given = true, true, false, 0
for i = 5, #ARGV, 2 do
  local place = places[ARGV[i]]
  local answered_by = place and wait[':call:' .. token .. ':' .. place]
  is_known = is_known and place ~= nil
  is_repeated = is_repeated and answered_by == call
  is_answered = is_answered or answered_by ~= nil
  given = given + 1
end
local state = of_wait('state')
if not is_known then return { 'unknown', before, {} } end
if is_repeated then return { state == 'settled' and state or 'recorded', before, {} } end
if is_answered then return { 'answered', before, {} } end
if state ~= 'open' or has_ended(hop_state, redis.call('HGET', wf_key(workflow), 'deadline')) or
  is_cut_off(workflow, hop) then
  return { 'late', before, {} }
end
wrong = may_not_wake(workflow, hop)
if wrong then return wrong end

if has_passed(of_wait('until')) then
  local woken = wake(workflow, hop)
  give_up_passed(hop, workflow, { token })
  drop_gone()
  return { 'late', fields_of(hop, token), woken }
end
local calls, is_whole = {}, true
for place = 1, tonumber(of_wait('parts')) do is_whole = is_whole and wait[':part:' .. token .. ':' .. place] == '' end
for i = 5, #ARGV, 2 do
  if ARGV[i] ~= '' then calls[#calls + 1] = ARGV[i] end
end
local is_settled = given == open_parts
local woken = is_settled and wake(workflow, hop) or {}
for i = 5, #ARGV, 2 do note_answer(hop, token, places[ARGV[i]], call, by, int(now), ARGV[i + 1]) end
if is_settled then end_waits(workflow, hop, { token }, 'settled') end
drop_gone()
if is_whole then
  add_event(workflow, 'type', 'answered', 'hop', hop, 'wait', of_wait('name'), 'by', by)
else
  add_event(workflow, 'type', 'answered', 'hop', hop, 'wait', of_wait('name'), 'by', by, 'calls', table.concat(calls, ', '))
end
return { is_settled and 'settled' or 'recorded', fields_of(hop, token), woken }
