-- Put in front of the scripts that read or change what hops wait for, after branches.lua. A hop's waits are fields of its
-- hash, each name with ':' in front, so that HMGET of a hop that never waited finds none of them:
--
-- :waits                   how many were ever recorded; each has a number, which orders those of one moment
-- :open                    the tokens of the open ones, oldest first, with spaces between them
-- :settled                 how many are settled
-- :age                     how old its workflow is, for the list (listing.lua)
-- :id:{wait id}            token
-- :wait_id:{token}         likewise kind (token|signal), name, since, until ('' for none), state (open|settled|timed_out),
--                          about (JSON for whoever answers), number, and parts (how many parts it has)
-- :part:{token}:{place}    a part ('' for the whole); once it is answered also call (the id of that call), by, at, and
--                          text (JSON)
--
-- No script reads the JSON: cjson would change numbers and empty lists.

local OF_WAIT = { 'wait_id', 'kind', 'name', 'since', 'until', 'state', 'about', 'number', 'parts' }
local OF_PART = { 'part', 'call', 'by', 'at', 'text' }

local function has_passed(at) return (tonumber(at or nil) or math.huge) <= now end

-- The fields of all waits of a hop: name, value, ...
local function wait_fields(hop)
  local found, all = {}, redis.call('HGETALL', hop_key(hop))
  for i = 1, #all, 2 do
    if all[i]:sub(1, 1) == ':' then
      found[#found + 1] = all[i]
      found[#found + 1] = all[i + 1]
    end
  end
  return found
end

-- The names of all fields of one wait.
local function names_of(hop, token)
  local names = {}
  for _, of in ipairs(OF_WAIT) do names[#names + 1] = ':' .. of .. ':' .. token end
  for place = 1, tonumber(redis.call('HGET', hop_key(hop), ':parts:' .. token)) or 0 do
    for _, of in ipairs(OF_PART) do names[#names + 1] = ':' .. of .. ':' .. token .. ':' .. place end
  end
  return names
end

-- The fields of one wait that are there: name, value, ...; none if there is no such wait.
local function fields_of(hop, token)
  local found, names = {}, names_of(hop, token)
  for first = 1, #names, MOST_FIELDS do
    local last = math.min(first + MOST_FIELDS - 1, #names)
    for i, value in ipairs(redis.call('HMGET', hop_key(hop), unpack(names, first, last))) do
      if value then
        found[#found + 1] = names[first + i - 1]
        found[#found + 1] = value
      end
    end
  end
  return found
end

-- Values of several waits: each list has one for each token, false if there is none.
local function values_of(hop, tokens, ...)
  local lists = {}
  for i, of in ipairs({ ... }) do
    local names = {}
    for place, token in ipairs(tokens) do names[place] = ':' .. of .. ':' .. token end
    lists[i] = #names > 0 and redis.call('HMGET', hop_key(hop), unpack(names)) or {}
  end
  return unpack(lists)
end

-- Open waits are open no longer.
local function end_waits(workflow, hop, tokens, state)
  stop_awaiting(workflow, hop, tokens)
  local ended, left, states = {}, {}, {}
  for _, token in ipairs(tokens) do
    ended[token] = true
    states[#states + 1] = ':state:' .. token
    states[#states + 1] = state
  end
  for _, token in ipairs(tokens_in(redis.call('HGET', hop_key(hop), ':open'))) do
    if not ended[token] then left[#left + 1] = token end
  end
  redis.call('HSET', hop_key(hop), ':open', table.concat(left, ' '), unpack(states))
  if state == 'settled' then redis.call('HINCRBY', hop_key(hop), ':settled', #tokens) end
  redis.call('ZREM', asked, unpack(tokens))
end

-- Give those up, of some open waits, whose time is over; returns how many.
local function give_up_passed(hop, workflow, tokens)
  local passed = {}
  local untils, names = values_of(hop, tokens, 'until', 'name')
  for i, token in ipairs(tokens) do
    if has_passed(untils[i]) then
      passed[#passed + 1] = token
      add_event(workflow, 'type', 'wait_timed_out', 'hop', hop, 'wait', names[i] or '')
    end
  end
  if #passed > 0 then end_waits(workflow, hop, passed, 'timed_out') end
  return #passed
end

-- When a suspended hop is looked at: when the first of its times is over, and now and then in any case.
local function next_look(hop, wake_at, deadline)
  local at = now + LONGEST_SLEEP
  local untils = values_of(hop, tokens_in(redis.call('HGET', hop_key(hop), ':open')), 'until')
  untils[#untils + 1] = wake_at
  untils[#untils + 1] = deadline
  for _, each in ipairs(untils) do at = math.min(at, tonumber(each or nil) or at) end
  return at
end

-- Look at a suspended hop at that time. The history that it has heard must not expire before it goes on: it is kept after
-- that for as long as after a claim.
local function look_again(hop, at)
  redis.call('ZADD', asleep, int(at), hop)
  local ttl, name = (redis.call('HGET', hop_key(hop), 'heard_in') or ''):match('^(%d+) (.*)$')
  if not ttl then return end
  local log = conversation_at('', 'anywhere', name)
  redis.call('PEXPIREAT', log, int(at + ttl))
end

-- Take a part of a wait as answered.
local function note_answer(hop, token, place, call, by, at, text)
  local behind = ':' .. token .. ':' .. place
  redis.call('HSET', hop_key(hop), ':call' .. behind, call, ':by' .. behind, by, ':at' .. behind, at, ':text' .. behind,
    text)
end

-- Queue a suspended hop, because one of its waits is over, and count its message, which the caller sends. Returns what
-- is needed to send it; nothing if the hop is not suspended, since it then learns of the answer by itself.
local function wake(workflow, hop)
  local state, queue, envelope, digest, on_branches =
    unpack(redis.call('HMGET', hop_key(hop), 'state', 'queue', 'envelope', 'digest', 'on_branches'))
  if state ~= 'suspended' or is_cut_off(workflow, hop) then return {} end
  expect(hop, queue, 0)
  redis.call('HSET', hop_key(hop), 'state', 'queued')
  redis.call('HDEL', hop_key(hop), 'quiet')
  redis.call('ZREM', asleep, hop)
  goes_on_again(workflow, hop, on_branches)
  list_hop(workflow, hop, 'q')
  return { hop, queue, envelope, digest }
end

-- What waking a hop would find in the way.
local function may_not_wake(workflow, hop)
  local state, queue, envelope, digest, on_branches =
    unpack(redis.call('HMGET', hop_key(hop), 'state', 'queue', 'envelope', 'digest', 'on_branches'))
  if state ~= 'suspended' then return nil end
  if not (queue and envelope and digest) then return corrupt(hop_key(hop), 'lacks fields') end
  local _, wrong = is_cut_off(workflow, hop)
  return wrong or may_not_send(queue) or (on_branches == '1' and misplaced(deadlines, 'zset') or nil)
end

-- Whether nobody can answer any more what the hop waited for.
local function has_ended(hop_state, deadline)
  return hop_state == 'done' or hop_state == 'failed' or hop_state == 'cancelled' or has_passed(deadline)
end

-- Forget a wait, or all of them, without a trace.
local function drop_fields(hop, names)
  for first = 1, #names, MOST_FIELDS do
    redis.call('HDEL', hop_key(hop), unpack(names, first, math.min(first + MOST_FIELDS - 1, #names)))
  end
end

local function forget_waits(workflow, hop)
  local open = redis.call('HGET', hop_key(hop), ':open')
  withdraw_waits(open)
  stop_awaiting(workflow, hop, tokens_in(open))
  local names = {}
  for _, name in ipairs(redis.call('HKEYS', hop_key(hop))) do
    if name:sub(1, 1) == ':' then names[#names + 1] = name end
  end
  drop_fields(hop, names)
end
