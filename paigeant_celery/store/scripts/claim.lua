-- CLAIM: give a queued hop, or one whose owner's lease has expired, to an owner.
-- ARGV: prefix, hop, owner, token, max_attempts, digest ('' skips the comparison), lease, activity and path of the step ('' if
--       unknown), timeout
--       (of the step; so long may TOUCH extend the owner's lease), where its conversation is kept ('' for none,
--       'workflow', 'anywhere'), the name of that, ttl, what the steps before it used ('' for a workflow without limits), what
--       names the span of this attempt ('' for none), then the names of blobs that the answer brings
-- Answer: {'unknown' | 'finished' | 'running' | 'held' | 'waiting' | 'suspended' | 'parked' | 'cancelled' | 'altered' |
--         'superseded'}, or
--         {'claimed', fence, attempt, claimed_at, exhausted (0|1), when the workflow was recorded, what was heard of its
--         conversation at the first claim: 'pieces size log' ('' for none), {name, blob, ... for those that are there},
--         {the fields of its waits}, {used, counted; none without limits}, {when it was claimed before ('' for never), '1'
--         (the owner of that claim was lost) or '', names of the spans of earlier attempts}}, or the error FORMAT if a newer
--         worker has begun

local _, hop, owner, token, max_attempts, digest, lease, activity, step, timeout, where, name, ttl, before, trace =
  unpack(ARGV, 1, 12 + 3)
local first_wanted = 12 + 4

local wrong = misplaced(hop_key(hop), 'hash', due, 'zset', owners, 'zset', owner_key(owner), 'set', host_key(owner), 'set',
  reached_key, 'hash', meta, 'hash')
if wrong then return wrong end

local record = {}
local fields = { 'workflow', 'state', 'digest', 'owner', 'token', 'fence', 'attempt', 'claimed_at', 'exhausted', 'queue',
  'first', 'heard', ':waits', 'quiet', 'last_claim', 'claimed_before', 'taken_over', 'traces', 'queued_at' }
for i, value in ipairs(redis.call('HMGET', hop_key(hop), unpack(fields))) do record[fields[i]] = value end
local repeated = record.token == token and record.owner == owner
if is_outdated and not repeated then return outdated() end -- what it claimed before is its own
if redis.call('EXISTS', hop_key(hop)) == 0 then return { 'unknown' } end
if not (record.workflow and record.state and tonumber(record.fence) and tonumber(record.attempt)) then
  return corrupt(hop_key(hop), 'lacks fields')
end
wrong = misplaced(wf_key(record.workflow), 'hash', events_key(record.workflow), 'stream',
  owner_key(record.owner or ''), 'set', host_key(record.owner or ''), 'set')
if wrong then return wrong end

-- An altered message is recognised in every state of the hop.
if digest ~= '' and digest ~= record.digest then
  local superseded = redis.call('HGET', hop_key(hop), 'superseded') or ''
  return { (' ' .. superseded .. ' '):find(' ' .. digest .. ' ', 1, true) and 'superseded' or 'altered' }
end
local is_open = record.state == 'queued' or record.state == 'running'
if is_open and is_unknown(hop) then return { 'unknown' } end
local created_at = redis.call('HGET', wf_key(record.workflow), 'created_at')
if not created_at then return corrupt(wf_key(record.workflow), 'lacks fields') end
if record.state == 'done' or record.state == 'failed' then return { 'finished' } end
local is_cut
is_cut, wrong = is_cut_off(record.workflow, hop)
if wrong then return wrong end
if is_cut then return { 'cancelled' } end
if record.state == 'held' or record.state == 'waiting' or record.state == 'suspended' or record.state == 'parked' or
  record.state == 'cancelled' then
  return { record.state }
end
if record.state ~= 'running' and record.state ~= 'queued' then
  return corrupt(hop_key(hop), 'has the state ' .. record.state)
end
if record.state == 'running' and not (record.owner and record.claimed_at) then
  return corrupt(hop_key(hop), 'runs without owner')
end
local log, start
if where ~= '' then
  log, start = conversation_at(record.workflow, where, name)
  wrong = misplaced(log, 'hash')
  if wrong then return wrong end
end
if #ARGV >= first_wanted then
  wrong = misplaced(blob_key(record.workflow), 'hash')
  if wrong then return wrong end
end
local used, counted
if before ~= '' then
  used, counted, wrong = totals(record.workflow, hop)
  if wrong then return wrong end
end
local function brought()
  local found = {}
  for i = first_wanted, #ARGV do
    local blob = redis.call('HGET', blob_key(record.workflow), ARGV[i])
    if blob then found[#found + 1] = ARGV[i]; found[#found + 1] = blob end
  end
  return found
end
-- A hop that never waited is not asked for more.
local function waits() return record[':waits'] and wait_fields(hop) or {} end
-- What older versions used is only in the message, and so counting begins with that.
local function spent()
  if before == '' then return {} end
  if not used then redis.call('HSET', wf_key(record.workflow), 'used', before) end
  return { used and sums_text(used) or before, sums_text(counted or sums_in()) }
end
-- What is known of earlier claims; own is what names the span of this one.
local function earlier(claimed_before, taken_over, own)
  local found = { claimed_before or '', taken_over or '' }
  for each in (record.traces or ''):gmatch('%S+') do
    if each ~= own then found[#found + 1] = each end
  end
  return found
end
local function give()
  if step == '' then list_hop(record.workflow, hop, 'r') else list_hop(record.workflow, hop, 'r', activity, step) end
  give_to(owner, hop, lease)
  if tonumber(timeout) > redis.call('PTTL', touchable_key(owner)) then let_touch(owner, tonumber(timeout)) end
end
if repeated then
  -- The reply to this very call was lost, and the client repeats it. The lease may have expired since.
  redis.call('HSET', hop_key(hop), 'state', 'running')
  redis.call('ZREM', due, hop)
  give()
  return { 'claimed', record.fence, record.attempt, record.claimed_at, record.exhausted, created_at,
    where ~= '' and record.heard or '', brought(), waits(), spent(),
    earlier(record.claimed_before, record.taken_over, trace) }
end
if record.state == 'running' then
  local lease_ends = redis.call('ZSCORE', owners, record.owner)
  if lease_ends and (tonumber(lease_ends) > now or held(lease)) then return { 'running' } end
end
raise_format()
local fence, attempt, exhausted = int(record.fence + 1), record.attempt, '0'
if tonumber(attempt) >= tonumber(max_attempts) then exhausted = '1' else attempt = int(attempt + 1) end
-- One that is queued and still somebody's lapsed. Whatever its owner does with it afterwards takes it from that owner.
local taken_over = record.owner and '1' or ''
local written = { 'state', 'running', 'owner', owner, 'token', token, 'fence', fence, 'attempt', attempt, 'claimed_at',
  int(now), 'exhausted', exhausted, 'last_claim', int(now) }
local function write(name, value) written[#written + 1], written[#written + 2] = name, value end
if activity ~= '' then write('activity', activity) end
if record.last_claim then
  write('claimed_before', record.last_claim)
  write('taken_over', taken_over)
end
if trace ~= '' then
  local traces = earlier()
  traces[#traces + 1] = trace
  write('traces', table.concat(traces, ' ', math.max(3, #traces - MOST_TRACES + 1)))
end
redis.call('HSET', hop_key(hop), unpack(written))
if record.state == 'queued' then note_time(activity, 'q', record.queued_at) end
local heard = ''
if log then
  heard = record.heard
  if not heard then
    local found = redis.call('HMGET', log, start .. 'pieces', start .. 'size', start .. 'log')
    heard = (found[1] or '0') .. ' ' .. (found[2] or '0') .. ' ' .. (found[3] or '')
    redis.call('HSET', hop_key(hop), 'heard', heard)
  end
  if where == 'anywhere' then
    redis.call('PEXPIREAT', log, int(now + ttl))
    redis.call('HSET', hop_key(hop), 'heard_in', ttl .. ' ' .. name)
  end
end
if record.state == 'running' then take_from(record.owner, hop) else redis.call('ZREM', due, hop) end
give()
-- Nobody knows which of its messages arrived. If it was sent again, the broker may redeliver the first message while
-- the last still waits in a long queue. If the last counted as reached, all messages ahead of it would seem lost.
if (tonumber(record.first) or 0) > (tonumber(redis.call('HGET', reached_key, record.queue)) or 0) then
  redis.call('HSET', reached_key, record.queue, record.first)
end
if record.quiet == '1' then
  redis.call('HDEL', hop_key(hop), 'quiet')
else
  redis.call('HSET', wf_key(record.workflow), 'updated_at', int(now))
  add_event(record.workflow, 'type', 'claimed', 'hop', hop, with_step(step, 'attempt', attempt, 'fence', fence,
    'exhausted', exhausted))
end
return { 'claimed', fence, attempt, int(now), exhausted, created_at, heard, brought(), waits(), spent(),
  earlier(record.last_claim, taken_over) }
