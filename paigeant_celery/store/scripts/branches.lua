-- Put in front of the scripts that open, end or read branches, after common.lua. What a block has opened stands in the
-- hash of its hop; core/blocks.py says what the numbers mean:
--
-- block:written            how many branches are recorded; likewise under block: count, needed, counted
--                          (succeeded|ended), spare ('' for any number), at_once and timeout (seconds, '' for none), which
--                          are there once it is opened; opened, under_way, succeeded, failed, joined (met|missed), ended
--                          and until
-- block:live               how many hops below it go on by themselves, if it is in a branch itself; those below a block on
--                          the workflow's own slip are all that the workflow counts
-- block:closed             after its end, up to which branch the hops below are closed, if not all are
-- branch:{number}          the hop that a branch stands at or, at its end, the last one; then also how (succeeded|
--                          failed), order (how many of the branches had ended with it) and end (JSON, how)
--
-- Any hop below one that has ended, or in a workflow that has, is closed from that moment (is_cut_off). The script that
-- ends a block or a workflow closes some of them for good, and sweeps the others.

local OF_BLOCK = { 'written', 'count', 'needed', 'counted', 'spare', 'at_once', 'timeout', 'opened', 'under_way', 'succeeded',
  'failed', 'joined', 'ended', 'until' }
local IN_BLOCK = {}
for i, of in ipairs(OF_BLOCK) do IN_BLOCK[i] = 'block:' .. of end
local COUNTED = { 'count', 'needed', 'at_once', 'opened', 'under_way', 'succeeded', 'failed' }
local LIVE = { queued = true, running = true, waiting = true }

-- What a hop has opened as a block, in the order of OF_BLOCK.
local function block_values(hop) return redis.call('HMGET', hop_key(hop), unpack(IN_BLOCK)) end

local function branch_field(number) return 'branch:' .. int(number) end

local function is_live(state, on_branches) return LIVE[state] or (state == 'suspended' and on_branches ~= '1') end

-- What counting a message of a queue would find in the way.
local function may_not_send(queue)
  if redis.call('HEXISTS', sent_key, queue) == 1 and not tonumber(redis.call('HGET', sent_key, queue)) then
    return corrupt(sent_key, 'has a count that is no number')
  end
end

-- Count so many more of the hops at and below one, which is in a branch, as going on by themselves.
local function count_live(workflow, hop, more)
  if more == 0 then return end
  redis.call('HINCRBY', wf_key(workflow), 'live', more)
  local above = block_of(hop)
  while block_of(above) do
    redis.call('HINCRBY', hop_key(above), 'block:live', more)
    above = block_of(above)
  end
end

-- Say where a workflow stands whose hops have changed: it goes on as long as any of them does.
local function settle(workflow)
  local state, hop, deadline, live = unpack(redis.call('HMGET', wf_key(workflow), 'state', 'hop', 'deadline', 'live'))
  local goes_on = (tonumber(live or 0) or 0) > 0
  if not goes_on and hop then goes_on = is_live(unpack(redis.call('HMGET', hop_key(hop), 'state', 'on_branches'))) end
  if goes_on and state == 'parked' then
    redis.call('HSET', wf_key(workflow), 'state', 'running')
    if deadline then redis.call('ZADD', deadlines, 'NX', deadline, workflow) end
    relist(workflow)
  elseif not goes_on and state == 'running' then
    redis.call('HSET', wf_key(workflow), 'state', 'parked')
    redis.call('ZREM', deadlines, workflow)
    list(workflow, 'p')
  end
end

-- A suspended hop goes on. One that waited for its branches counts as live again.
local function goes_on_again(workflow, hop, on_branches)
  if on_branches ~= '1' then return end
  if block_of(hop) then count_live(workflow, hop, 1) end
  settle(workflow)
end


-- Waits for signals in branches.

local function asked_field(name) return 'signals:asked:' .. name end

-- Have signals of that name found by a wait of a hop in a branch.
local function await_signal(workflow, name, token)
  local others = redis.call('HGET', blob_key(workflow), asked_field(name))
  redis.call('HSET', blob_key(workflow), asked_field(name), others and others .. ' ' .. token or token)
end

-- Have no signal found any more by waits that are open no longer: {name -> {token -> true}}.
local function drop_awaited(workflow, by_name)
  for name, gone in pairs(by_name) do
    local left, tokens = {}, redis.pcall('HGET', blob_key(workflow), asked_field(name))
    for token in (type(tokens) == 'string' and tokens or ''):gmatch('%S+') do
      if not gone[token] then left[#left + 1] = token end
    end
    if #left > 0 then
      redis.call('HSET', blob_key(workflow), asked_field(name), table.concat(left, ' '))
    elseif type(tokens) == 'string' then
      redis.call('HDEL', blob_key(workflow), asked_field(name))
    end
  end
end

-- Note which of a hop's open waits are for signals, in {name -> {token -> true}}; all of them leave the list (drop_gone).
local function note_awaited(hop, tokens, by_name)
  if #tokens == 0 then return end
  local names = {}
  for _, token in ipairs(tokens) do
    names[#names + 1] = ':kind:' .. token
    names[#names + 1] = ':name:' .. token
  end
  names[#names + 1] = ':age'
  local values = redis.call('HMGET', hop_key(hop), unpack(names))
  for i, token in ipairs(tokens) do
    local kind, name, age = values[2 * i - 1], values[2 * i], values[#names]
    if name and age then gone_waits[#gone_waits + 1] = text_of_wait(name, age, token) end
    if kind == 'signal' and name then
      by_name[name] = by_name[name] or {}
      by_name[name][token] = true
    end
  end
end

-- The same for one hop, whose waits are listed no longer. If it is on the workflow's own slip, signals find them without
-- that.
local function stop_awaiting(workflow, hop, tokens)
  if not block_of(hop) then return unlist_waits(hop, tokens) end
  local by_name = {}
  note_awaited(hop, tokens, by_name)
  drop_awaited(workflow, by_name)
end


-- What ends with a block or a workflow.

local OF_BELOW = { 'state', 'owner', 'letter', ':open', 'block:written', 'block:closed' }

-- What is needed to close a hop; nil if nothing of it is there, or it is not one of ours.
local function below_at(hop)
  local found = redis.pcall('HMGET', hop_key(hop), unpack(OF_BELOW))
  if found.err or not found[1] then return nil end
  local record = { hop = hop }
  for i, value in ipairs(found) do record[OF_BELOW[i]] = value or nil end
  return record
end

-- Find hops below some that have opened blocks, and are closed now: at most so many. Nothing is written.
local function look_below(blocks, most)
  local found = { records = {}, at = {}, left = {}, looked_at = 0 }
  local number = 1
  blocks = { unpack(blocks) }
  while number <= #blocks do
    local block = blocks[number]
    local record = below_at(block) or {}
    local at, written = tonumber(record['block:closed']) or 0, tonumber(record['block:written']) or 0
    while at < written and found.looked_at < most do
      local last, names = math.min(written, at + most - found.looked_at) - 1, {}
      for each = at, last do
        names[#names + 1] = branch_field(each)
        names[#names + 1] = 'how:' .. int(each)
      end
      local values = redis.call('HMGET', hop_key(block), unpack(names))
      for i = 1, #values, 2 do
        local below = values[i] and not values[i + 1] and below_at(values[i])
        if below then
          found.looked_at = found.looked_at + 1
          if not ENDED[below.state] then found.records[#found.records + 1] = below end
          if below['block:written'] then blocks[#blocks + 1] = below.hop end
        end
      end
      at = last + 1
    end
    if at < written then found.left[#found.left + 1], found.at[block] = block, at end
    number = number + 1
  end
  return found
end

local function in_parts(command, key, members)
  for first = 1, #members, MOST_FIELDS do
    redis.call(command, key, unpack(members, first, math.min(first + MOST_FIELDS - 1, #members)))
  end
end

-- Close such hops, whatever they do. Those that are left are noted for sweeps.
local function close_below(workflow, found)
  local hops, owned, tokens, dropped, letter_keys, by_name = {}, {}, {}, {}, {}, {}
  for i, record in ipairs(found.records) do
    hops[i] = record.hop
    if record.owner then
      owned[record.owner] = owned[record.owner] or {}
      table.insert(owned[record.owner], record.hop)
    end
    local open = tokens_in(record[':open'])
    for _, token in ipairs(open) do tokens[#tokens + 1] = token end
    note_awaited(record.hop, open, by_name)
    if record.letter then
      dropped[#dropped + 1] = record.letter
      letter_keys[#letter_keys + 1] = letter_key(record.letter)
    end
    redis.call('HDEL', hop_key(record.hop), 'envelope', 'owner', 'token', 'failure', 'letter')
    redis.call('HSET', hop_key(record.hop), 'state', 'cancelled')
  end
  local without_hops, touchable_keys = {}, {}
  for owner, each in pairs(owned) do
    -- A key of another type is left to sweeps, which say so.
    local taken = redis.pcall('SREM', owner_key(owner), unpack(each))
    if type(taken) == 'number' and redis.call('EXISTS', owner_key(owner)) == 0 then
      without_hops[#without_hops + 1] = owner
      touchable_keys[#touchable_keys + 1] = touchable_key(owner)
      redis.pcall('SREM', host_key(owner), owner)
    end
  end
  if #without_hops > 0 then
    redis.call('ZREM', owners, unpack(without_hops))
    redis.call('DEL', unpack(touchable_keys))
  end
  if #hops > 0 then
    redis.call('ZREM', due, unpack(hops))
    redis.call('ZREM', parked, unpack(hops))
    redis.call('ZREM', asleep, unpack(hops))
  end
  in_parts('ZREM', asked, tokens)
  drop_awaited(workflow, by_name)
  if #dropped > 0 then
    redis.call('DEL', unpack(letter_keys))
    redis.call('ZREM', kept_letters, unpack(dropped))
  end
  for _, block in ipairs(found.left) do
    redis.call('HSET', hop_key(block), 'block:closed', int(found.at[block]))
    redis.call('ZADD', ending, 'NX', int(now), block)
  end
end

-- What closing the hops below a hop would find in the way; none are below one that is no block.
local function may_not_close_below(written)
  if not written then return nil end
  return misplaced(due, 'zset', parked, 'zset', asleep, 'zset', asked, 'zset', kept_letters, 'zset', owners, 'zset',
    ending, 'zset')
end

-- Close what is below a hop that is closed now, if it is a block: what was found there before the first write.
local function end_block(workflow, hop, found)
  if not found then return end
  local live = block_of(hop) and tonumber(redis.call('HGET', hop_key(hop), 'block:live') or 0) or 0
  if block_of(hop) then count_live(workflow, hop, -live) else redis.call('HSET', wf_key(workflow), 'live', 0) end
  close_below(workflow, found)
end

-- Give some hops of a large workflow that has ended their end, and at last the workflow and its current hop. Returns how
-- many hops.
local function expire_more(workflow, most)
  local found = redis.pcall('HMGET', wf_key(workflow), 'hop', 'expires_at')
  local current, at = unpack(found)
  local hops = at and redis.pcall('SPOP', hops_key(workflow), most) or {}
  for _, hop in ipairs(hops) do
    if hop ~= current then expire_hop(hop, at) end
  end
  if #hops < most then
    redis.call('ZREM', ending, workflow)
    if at then expire_workflow(workflow, at) end
    if at and current then expire_hop(current, at) end
  end
  return #hops + 1
end


-- What follows for a block from what becomes of its branches.

local function joined_of(block)
  if block.spare ~= '' and block.failed > tonumber(block.spare) then return 'missed' end
  local counted = block.succeeded + (block.counted == 'ended' and block.failed or 0)
  if counted >= block.needed then return 'met' end
end

-- Note which branch goes on in the place of another one, if any does.
local function open_next(block, plan)
  if block.opened >= block.count or block.under_way >= block.at_once then return end
  plan.opens = redis.call('HGET', hop_key(plan.above), branch_field(block.opened))
  block.opened, block.under_way = block.opened + 1, block.under_way + 1
end

-- Find what follows for a block when the hop of a branch ends its branch ('succeeded' or 'failed') or is set aside (nil).
-- Nothing is written. Returns nil and an error if something is in the way.
local function plan_arrival(hop, how)
  local above, number = block_of(hop)
  local wrong = misplaced(hop_key(above), 'hash', asleep, 'zset', due, 'zset', sent_key, 'hash', deadlines, 'zset')
  if wrong then return nil, wrong end
  local block = {}
  for i, value in ipairs(block_values(above)) do block[OF_BLOCK[i]] = value end
  for _, of in ipairs(COUNTED) do
    block[of] = tonumber(block[of] or nil)
    if not block[of] then return nil, corrupt(hop_key(above), 'has opened no branches') end
  end

  local plan = { above = above, number = number, how = how, block = block }
  block.under_way = block.under_way - 1
  if how then block[how] = block[how] + 1 end
  if not block.joined then
    local joined = how and joined_of(block)
    if joined then
      block.joined, block.ended = joined, int(block.succeeded + block.failed)
      plan.wakes = true
    else
      open_next(block, plan)
    end
  end

  local goes_on = plan.wakes and above or plan.opens
  if not goes_on then return plan end
  wrong = misplaced(hop_key(goes_on), 'hash')
  if wrong then return nil, wrong end
  local state, on_branches, queue, envelope, digest =
    unpack(redis.call('HMGET', hop_key(goes_on), 'state', 'on_branches', 'queue', 'envelope', 'digest'))
  if (plan.wakes and state == 'suspended' and on_branches == '1') or (plan.opens and state == 'held') then
    if not (queue and envelope and digest) then return nil, corrupt(hop_key(goes_on), 'lacks fields') end
    wrong = may_not_send(queue)
    if wrong then return nil, wrong end
    plan.sends = { goes_on, queue, envelope, digest }
  end
  return plan
end

-- Make a held hop live, and count its first message.
local function open_held(hop, queue)
  redis.call('HSET', hop_key(hop), 'state', 'queued')
  redis.call('HSET', hop_key(hop), 'first', expect(hop, queue, 0))
end

-- Record what follows for the block. The hop itself no longer goes on. Returns what is needed to send the hop that does;
-- nothing if none does.
local function arrive(workflow, hop, plan, end_)
  local block, above = plan.block, plan.above
  redis.call('HSET', hop_key(above), 'block:opened', int(block.opened), 'block:under_way', int(block.under_way),
    'block:succeeded', int(block.succeeded), 'block:failed', int(block.failed))
  if plan.how then
    redis.call('HSET', hop_key(above), 'how:' .. plan.number, plan.how, 'order:' .. plan.number,
      int(block.succeeded + block.failed), 'end:' .. plan.number, end_)
    add_event(workflow, 'type', plan.how == 'succeeded' and 'branch_completed' or 'branch_failed', 'hop', hop)
  end
  if plan.wakes then
    redis.call('HSET', hop_key(above), 'block:joined', block.joined, 'block:ended', block.ended)
    add_event(workflow, 'type', 'joined', 'hop', above, 'how', block.joined)
  end
  count_live(workflow, hop, -1)
  if plan.sends and plan.wakes then
    expect(above, plan.sends[2], 0)
    redis.call('HSET', hop_key(above), 'state', 'queued')
    redis.call('ZREM', asleep, above)
    if block_of(above) then count_live(workflow, above, 1) else list(workflow, 'q') end
  elseif plan.sends then
    open_held(plan.sends[1], plan.sends[2])
    count_live(workflow, hop, 1)
  end
  settle(workflow)
  return plan.sends or {}
end
