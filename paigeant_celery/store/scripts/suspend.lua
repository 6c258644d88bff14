-- SUSPEND: let a hop wait, owned by nobody, for what it stands at, and give the attempt back. If any of it has come, the
-- hop is queued, and the caller sends its message.
-- ARGV: prefix, hop, owner, fence, when it goes on in any case ('' for never), '1' if neither this nor its waking is an
--       event, '1' if it waits for nothing but its branches, what it waits for (for the event), then the tokens of its
--       waits
-- Answer: {hop, queue, envelope, digest} to be sent | {} suspended | 0 overtaken, nothing changed | -1 the hop is unknown.
--         A repetition gets the same answer, as long as nobody has claimed the hop since.

local _, hop, owner, fence, wake_at, quiet, on_branches, waits_for = unpack(ARGV, 1, 8)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset', asleep, 'zset', sent_key, 'hash')
if wrong then return wrong end

local record = {}
local fields = { 'state', 'fence', 'queue', 'envelope', 'digest', 'attempt', 'exhausted', 'suspended_by', 'slept',
  'block:joined' }
for i, value in ipairs(redis.call('HMGET', hop_key(hop), unpack(fields))) do record[fields[i]] = value end
if is_unknown(hop) then return -1 end
local mark = fence .. ' ' .. owner
local message = { hop, record.queue, record.envelope, record.digest }
if record.suspended_by == mark then
  local goes_on = record.state == 'queued' and record.fence == fence and record.slept == '0'
  local is_cut
  is_cut, wrong = is_cut_off(hop:match('^[^.]*'), hop)
  return wrong or (goes_on and not is_cut and message) or {}
end
local workflow = may_close(hop, owner, fence)
if not workflow then return 0 end
if not (record.queue and record.envelope and record.digest and tonumber(record.attempt)) then
  return corrupt(hop_key(hop), 'lacks fields')
end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream')
if wrong then return wrong end
wrong = on_branches == '1' and misplaced(deadlines, 'zset')
if wrong then return wrong end

local tokens = { unpack(ARGV, 9) }
local over = has_passed(wake_at) or (on_branches == '1' and record['block:joined'])
local states, untils = values_of(hop, tokens, 'state', 'until')
for i = 1, #tokens do over = over or states[i] ~= 'open' or has_passed(untils[i]) end
local attempt = record.attempt
if record.exhausted ~= '1' then attempt = int(attempt - 1) end

if over then expect(hop, record.queue, 0) end
redis.call('HSET', hop_key(hop), 'state', over and 'queued' or 'suspended', 'attempt', attempt, 'suspended_by', mark,
  'slept', over and '0' or '1', 'wake_at', wake_at, 'quiet', quiet, 'on_branches', on_branches)
if not over then
  local deadline = redis.call('HGET', wf_key(workflow), 'deadline')
  look_again(hop, next_look(hop, wake_at, deadline))
  redis.call('ZREM', due, hop)
end
redis.call('HDEL', hop_key(hop), 'owner', 'token', 'claimed_at', 'exhausted', 'given_back')
take_from(owner, hop)
if on_branches == '1' and not over then
  if block_of(hop) then count_live(workflow, hop, -1) end
  settle(workflow)
end
if on_branches == '1' then relist(workflow) else list_hop(workflow, hop, over and 'q' or 's') end
if quiet ~= '1' then
  if waits_for == '' then
    add_event(workflow, 'type', 'suspended', 'hop', hop)
  else
    add_event(workflow, 'type', 'suspended', 'hop', hop, 'waits_for', waits_for)
  end
end
return over and message or {}
