-- SWEEP: find hops whose message will not come, note that it is sent again, and return them. Hops below what has ended are
-- closed instead.
-- Nobody leads: whoever asks first in a second makes the pass; the others learn only of the owners on their host.
-- ARGV: prefix, host, lease, number of dead owners, number of queues that the caller serves, the dead owners (their processes
--       are gone), those queues, then queue, '1' (it is empty) or '0' for each queue that the caller has looked at
-- Answer: {owners of this host}, {queues that must be looked at}, {hop, queue, envelope, digest, ... to send again},
--         {keys that do not hold records of ours}, {hop, queue, envelope, digest, ... whose deadline has passed}, 1 (there
--         is more than fits into one pass, so that another one should follow, which may be at once) or 0, {those to send
--         again because a time is over}, 1 (this call made the pass, so that LOOK_OVER should follow) or 0, or the error
--         FORMAT if a newer worker has begun

local _, host, lease, dead_count, served_count = unpack(ARGV, 1, 5)
local first_served = 6 + dead_count
local first_looked_at = first_served + served_count

local wrong = misplaced(due, 'zset', owners, 'zset', meta, 'hash', sent_key, 'hash', reached_key, 'hash',
  host_key(host), 'set', deadlines, 'zset', asleep, 'zset', asked, 'zset', ending, 'zset', parked, 'zset', kept_letters, 'zset')
if wrong then return wrong end

if is_outdated then return outdated() end
raise_format()

-- Note which queues somebody serves.
local served = {}
for i = first_served, first_looked_at - 1 do
  served[#served + 1] = int(now)
  served[#served + 1] = ARGV[i]
end
if #served > 0 then redis.pcall('ZADD', served_key, unpack(served)) end

local looked_at = {}
for i = first_looked_at, #ARGV, 2 do looked_at[ARGV[i]] = ARGV[i + 1] end

local again, woken, late, corrupted, unknown, asked = {}, {}, {}, {}, {}, {}
local bytes, late_bytes = 0, 0 -- apart, so that no backlog holds deadlines up
local closed = 0
local changes = {} -- of where workflows stand

-- What does not fit into this answer is left for the next pass. A woken hop counts twice: it takes more commands.
local function done_so_far() return #again / 4 + #woken + closed end
local function is_full() return done_so_far() >= MOST_AT_ONCE or bytes >= MOST_BYTES end

-- What is needed to send the hop again; nil if the record is not one of ours.
local function record_of(hop)
  if redis.call('TYPE', hop_key(hop)).ok ~= 'hash' then return nil end
  local record = {}
  local fields = { 'workflow', 'state', 'queue', 'envelope', 'digest', 'owner', 'quiet', 'wake_at', ':open',
    'on_branches' }
  for i, value in ipairs(redis.call('HMGET', hop_key(hop), unpack(fields))) do record[fields[i]] = value end
  if not (record.workflow and record.queue and record.envelope and record.digest) then return nil end
  local events = redis.call('TYPE', events_key(record.workflow)).ok
  return (events == 'stream' or events == 'none') and record or nil
end

-- Close a hop that stands below one that has ended, or in a workflow that has; says whether it does.
local function close_if_cut_off(hop, record)
  if not is_cut_off(record.workflow, hop) then return false end
  closed = closed + 1
  close_below(record.workflow, { records = { below_at(hop) }, left = {}, at = {} })
  return true
end

local reached = {}
local function reached_on(queue)
  reached[queue] = reached[queue] or tonumber(redis.call('HGET', reached_key, queue)) or 0
  return reached[queue]
end

local is_counted = {} -- queue -> whether its messages are known to be counted
local function send_again(hop, record, waits, why)
  if close_if_cut_off(hop, record) then return end
  if not is_counted[record.queue] and type(redis.pcall('HINCRBY', sent_key, record.queue, 0)) ~= 'number' then
    -- Something else wrote there. Without a number no message of this queue could be sent, and the pass would end here.
    redis.call('HSET', sent_key, record.queue, int(reached_on(record.queue)))
    corrupted[#corrupted + 1] = sent_key
  end
  is_counted[record.queue] = true
  redis.call('HSET', hop_key(hop), 'state', 'queued')
  if not block_of(hop) then changes[#changes + 1] = { workflow = record.workflow, state = 'q' } end
  expect(hop, record.queue, waits)
  if why ~= 'time_over' or record.quiet ~= '1' then
    add_event(record.workflow, 'type', 'resent', 'hop', hop, 'why', why)
  end
  for _, value in ipairs({ hop, record.queue, record.envelope, record.digest }) do again[#again + 1] = value end
  bytes = bytes + #record.envelope
end

local function give_up(hop)
  redis.call('ZREM', due, hop)
  corrupted[#corrupted + 1] = hop_key(hop)
end

local function lapse(owner, why)
  if misplaced(host_key(owner), 'set') then
    corrupted[#corrupted + 1] = host_key(owner)
    return
  end
  if redis.call('TYPE', owner_key(owner)).ok ~= 'set' then
    redis.call('ZREM', owners, owner)
    redis.call('SREM', host_key(owner), owner)
    return
  end
  local taken = {}
  for _, hop in ipairs(redis.call('SMEMBERS', owner_key(owner))) do
    if is_full() or #taken >= MOST_AT_ONCE then break end
    local record = record_of(hop)
    taken[#taken + 1] = hop
    local another = record and record.owner ~= owner -- has it since the server lost its earlier record
    if record and record.state == 'running' and not another then
      send_again(hop, record, 0, why)
    elseif not another then
      corrupted[#corrupted + 1] = hop_key(hop)
    end
  end
  if #taken > 0 then take_from(owner, unpack(taken)) end
end

-- Send a retry, or a hop that was released or redriven.
local function send_waiting(hop)
  local record = record_of(hop)
  if record and record.state == 'waiting' then
    redis.call('HDEL', hop_key(hop), 'owner')
    send_again(hop, record, 0, 'retry')
  elseif record and record.state == 'queued' then
    send_again(hop, record, 1, 'overtaken')
  else
    give_up(hop)
  end
end

local wakings, timed_out = 0, 0

-- Whether this pass has had enough of suspended hops. Each may have timed out in as many waits as it may have.
local function has_woken_enough() return is_full() or wakings >= WOKEN_AT_ONCE or timed_out >= MOST_TIMED_OUT end

-- Look at a suspended hop, and queue it if its time is over or that of any of its waits.
local function look_at_sleeper(hop)
  wakings = wakings + 1
  local record = record_of(hop)
  if not record or record.state ~= 'suspended' then
    -- A version that knows no suspended hops ended it, or it expired since.
    local key_type = redis.call('TYPE', hop_key(hop)).ok
    local state, open
    if key_type == 'hash' then state, open = unpack(redis.call('HMGET', hop_key(hop), 'state', ':open')) end
    redis.call('ZREM', asleep, hop)
    if state == 'cancelled' then
      unlist_waits(hop, tokens_in(open))
      withdraw_waits(open)
    end
    if state ~= 'cancelled' and key_type ~= 'none' then corrupted[#corrupted + 1] = hop_key(hop) end
    return
  end
  if close_if_cut_off(hop, record) then return end
  local workflow_type = redis.call('TYPE', wf_key(record.workflow)).ok
  local deadline = workflow_type == 'hash' and redis.call('HGET', wf_key(record.workflow), 'deadline')
  local passed = give_up_passed(hop, record.workflow, tokens_in(record[':open']))
  timed_out = timed_out + passed
  -- If its workflow is lost, its message can bring that back.
  if passed > 0 or has_passed(record.wake_at) or has_passed(deadline) or workflow_type == 'none' then
    redis.call('ZREM', asleep, hop)
    send_again(hop, record, 0, 'time_over')
    goes_on_again(record.workflow, hop, record.on_branches)
    woken[#woken + 1] = hop
  else
    look_again(hop, next_look(hop, record.wake_at, deadline))
  end
end

-- Look at a queued hop that should have been claimed by now. There may be thousands, so only the envelopes of those
-- that are sent again are read.
local function look_at(hop)
  local found = redis.pcall('HMGET', hop_key(hop), 'state', 'queue', 'sent', 'waits', 'workflow')
  if found.err then return give_up(hop) end
  local state, queue, sent, waits, workflow = unpack(found)
  if state ~= 'queued' or not queue then return give_up(hop) end
  local overtaken = reached_on(queue) > (tonumber(sent) or 0)
  waits = int((tonumber(waits) or 0) + 1)
  if overtaken or looked_at[queue] == '1' then
    local record = record_of(hop)
    if not record then return give_up(hop) end
    send_again(hop, record, waits, overtaken and 'overtaken' or 'queue_empty')
  elseif looked_at[queue] then
    -- Its message waits behind others: there is no reason to send it again.
    redis.call('HSET', hop_key(hop), 'waits', waits)
    await_claim(hop, waits)
    -- A program of an older version may have recorded it, and lists nothing. What is claimed or sent again is listed there.
    if waits == '1' and workflow and not block_of(hop) and not listing_of(workflow) then relist(workflow) end
  elseif not asked[queue] then
    asked[queue] = true
    unknown[#unknown + 1] = queue
  end
end

-- Return the hop of a workflow whose deadline has passed, to be closed. A hop that runs is ended by its own timeout, and
-- one that waits is queued first. Whoever gets it may die, so it is looked at again.
local function look_at_deadline(workflow)
  local hop = redis.call('TYPE', wf_key(workflow)).ok == 'hash' and redis.call('HGET', wf_key(workflow), 'hop')
  local record = hop and record_of(hop)
  if not record then
    redis.call('ZREM', deadlines, workflow)
    corrupted[#corrupted + 1] = wf_key(workflow)
    return
  end
  redis.call('ZADD', deadlines, int(now + DUE_AFTER), workflow)
  if record.state ~= 'queued' then return end
  for _, value in ipairs({ hop, record.queue, record.envelope, record.digest }) do late[#late + 1] = value end
  late_bytes = late_bytes + #record.envelope
end

-- Close more of the hops below those that have ended, and give the keys of large workflows that have ended their end.
-- Returns whether any are left.
local function end_more()
  local left, names = math.floor(MOST_AT_ONCE - done_so_far()), redis.call('ZRANGE', ending, 0, MOST_AT_ONCE - 1)
  for _, name in ipairs(names) do
    local workflow = name:match('^[^.]*')
    if workflow ~= name then
      if left <= 0 then return true end
      local found = look_below({ name }, left)
      close_below(workflow, found)
      if #found.left == 0 or found.left[1] ~= name then redis.call('ZREM', ending, name) end
      left = left - math.max(found.looked_at, 1)
    end
  end
  -- The keys of a workflow get their end when all is closed.
  for _, name in ipairs(names) do
    if name:match('^[^.]*') == name then
      if left <= 0 then return true end
      left = left - expire_more(name, left)
    end
  end
  return #names > 0 and redis.call('ZCARD', ending) > 0
end

for i = 6, first_served - 1 do lapse(ARGV[i], 'owner_gone') end

local swept_at, cut = unpack(redis.call('HMGET', meta, 'swept_at', 'cut'))
local looking = #ARGV >= first_looked_at
local is_cut, makes_pass = false, false
if looking or not swept_at or cut or now - swept_at >= PASS_EVERY then
  if swept_at and now - swept_at > long_unswept(lease) then redis.call('HSET', meta, 'held_until', int(now + lease)) end
  redis.call('HSET', meta, 'swept_at', int(now))
  makes_pass = true
  if not held(lease) then
    for _, owner in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', int(now), 'LIMIT', 0, MOST_AT_ONCE)) do
      lapse(owner, 'lease_over')
    end
  end
  for _, hop in ipairs(redis.call('ZRANGEBYSCORE', asleep, '-inf', int(now), 'LIMIT', 0, WOKEN_AT_ONCE + 1)) do
    is_cut = has_woken_enough()
    if is_cut then break end
    look_at_sleeper(hop)
  end
  for _, hop in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', int(now - AHEAD), 'LIMIT', 0, MOST_AT_ONCE)) do
    if is_full() then break end
    send_waiting(hop)
  end
  for _, hop in ipairs(redis.call('ZRANGEBYSCORE', due, 0, int(now), 'LIMIT', 0, MOST_LOOKED_AT)) do
    if is_full() then break end
    look_at(hop)
  end
  for _, workflow in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', int(now), 'LIMIT', 0, MOST_AT_ONCE)) do
    if late_bytes >= MOST_BYTES then break end
    look_at_deadline(workflow)
  end
  is_cut = end_more() or is_cut or is_full()
  if is_cut then redis.call('HSET', meta, 'cut', '1') elseif cut then redis.call('HDEL', meta, 'cut') end
end
list_all(changes)
drop_gone()
return { redis.call('SMEMBERS', host_key(host)), unknown, again, corrupted, late, is_cut and 1 or 0, woken,
  makes_pass and 1 or 0 }
