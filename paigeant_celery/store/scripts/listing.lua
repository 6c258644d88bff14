-- Put in front of every script that changes where a workflow stands, after common.lua. What is listed stands in one
-- sorted set whose scores are all 0, so that it is ordered by its texts, byte by byte. For each workflow there are
--
-- s{state}{age}{workflow}                     by state
-- a{activity}:{state}{age}{workflow}          by the activity of its current step, and state
-- i{workflow} {state}{age}:{activity}:{step}  by id; it says as what the workflow is listed
-- n{name}\0{age}{token}                       by what it waits for: one for each open wait
--
-- A state is one letter: q(ueued), r(unning), t (is tried again), s(uspended), c(ompleted), f(ailed), p(arked),
-- x (cancelled). An age is a large number less the time at which the workflow was recorded: the newest come first.
-- Activity and step are those of the current step or, at the end, of the last one, and empty if an older version
-- recorded them. A listing says nothing about a workflow that its record does not say: whoever reads it looks there.
--
-- {prefix}:ended holds the third text of each workflow that has ended -> when its record expires; then all leave.
--
-- No hop may fail because of a list: what is called here is called behind the writes of the scripts. So a key of another
-- type is left alone, and so is a workflow of which nobody can say when it was recorded; those who read the list are told.

local index, ended = prefix .. ':index', prefix .. ':ended'
local AGE = #int(MOST_COUNTED) -- digits, for some thousand years

-- nil for what is no time: whoever damaged a record must stop nothing else.
local function age_of(created_at)
  local at = type(created_at) ~= 'table' and tonumber(created_at or nil)
  local age = at and int(MOST_COUNTED - at)
  return age and #age == AGE and age:match('^%d+$') or nil
end

-- The parts of the third text: workflow, state, age, activity, step.
local function listing_in(text)
  local workflow, state, age, activity, step = (text or ''):match('^i([^ ]*) (%l)(%d+):([^:]*):(.*)$')
  return workflow and { workflow = workflow, state = state, age = age, activity = activity, step = step, text = text }
end

-- Put the texts of a listing behind some others.
local function add_texts(texts, each)
  texts[#texts + 1] = each.text
  texts[#texts + 1] = 's' .. each.state .. each.age .. each.workflow
  texts[#texts + 1] = 'a' .. each.activity .. ':' .. each.state .. each.age .. each.workflow
end

local OF_ENDED = { c = true, f = true, x = true }

-- As what a workflow is listed; nil if it is not.
local function listing_of(workflow)
  local found = redis.pcall('ZRANGEBYLEX', index, '[i' .. workflow .. ' ', '(i' .. workflow .. '!', 'LIMIT', 0, 1)
  return listing_in(found[1])
end

local function in_lots(command, key, texts)
  for first = 1, #texts, MOST_FIELDS do
    redis.pcall(command, key, unpack(texts, first, math.min(first + MOST_FIELDS - 1, #texts)))
  end
end

-- Texts of waits that are open no longer. They go with the next listing of a workflow, or at the end of the script.
local gone_waits = {}

local function drop_gone()
  if #gone_waits == 0 then return end
  in_lots('ZREM', index, gone_waits)
  gone_waits = {}
end

-- List workflows as they are now, in place of what they were: what is left out stays. Each is {workflow, state, activity,
-- step, created_at}; the time of one that is new is looked up. If an older version may have changed what its step is
-- (is_unsure), nothing is said of that. Returns the texts as what they are listed.
local function list_all(changes)
  local gone, come, listed = {}, {}, {}
  for _, change in ipairs(changes) do
    local before = listing_of(change.workflow)
    local created_at = change.created_at
    if not before and not created_at then created_at = redis.pcall('HGET', wf_key(change.workflow), 'created_at') end
    local age = age_of(created_at) or (before and before.age)
    if age then
      local kept = before and not (change.is_unsure and before.state ~= change.state) and before or {}
      local new = { workflow = change.workflow, state = change.state, age = age,
        activity = change.activity or kept.activity or '', step = change.step or kept.step or '' }
      new.text = 'i' .. new.workflow .. ' ' .. new.state .. new.age .. ':' .. new.activity .. ':' .. new.step
      if not before or before.text ~= new.text then
        if before then
          add_texts(gone, before)
          -- It has expired, and another one has its id.
          if OF_ENDED[before.state] then redis.pcall('ZREM', ended, before.text) end
          for _, text in ipairs(gone_waits) do gone[#gone + 1] = text end
          gone_waits = {}
        end
        local texts = {}
        add_texts(texts, new)
        for _, text in ipairs(texts) do
          come[#come + 1] = 0
          come[#come + 1] = text
        end
      end
      listed[#listed + 1] = new.text
    end
  end
  in_lots('ZREM', index, gone)
  in_lots('ZADD', index, come)
  return listed
end

local function list(workflow, state, activity, step, created_at)
  return list_all({ { workflow = workflow, state = state, activity = activity, step = step, created_at = created_at } })[1]
end

-- The same for a hop: only one on the workflow's own slip says where that stands.
local function list_hop(workflow, hop, state, activity, step)
  if not block_of(hop) then list(workflow, state, activity, step) end
end

-- A block that is set aside may have branches that go on.
local OF_HOP = { queued = 'q', running = 'r', waiting = 't', suspended = 's', parked = 'q' }
local OF_WORKFLOW = { completed = 'c', failed = 'f', parked = 'p', cancelled = 'x' }

-- The letter of a workflow whose current hop is in that state; nil if either is damaged.
local function letter_of(state, hop_state, given_back)
  if hop_state == 'waiting' and given_back then hop_state = 'queued' end
  return OF_WORKFLOW[state] or (state == 'running' and OF_HOP[hop_state]) or nil
end

-- Whether that is the activity of a hop which a version with a list has recorded or claimed.
local function is_known(activity) return activity and activity ~= '' end

-- List a workflow as its record says. What is listed of the step of a hop that no version with a list has recorded or
-- claimed may be about an earlier one. Returns as what it is listed, its current hop, and whether its step is unsure.
local function relist(workflow, activity, step)
  local state, hop, created_at = unpack(redis.pcall('HMGET', wf_key(workflow), 'state', 'hop', 'created_at'))
  if not (state and hop and created_at) then return end
  local hop_state, given_back, known = unpack(redis.pcall('HMGET', hop_key(hop), 'state', 'given_back', 'activity'))
  local letter = letter_of(state, hop_state, given_back)
  if not letter then return end
  local change = { workflow = workflow, state = letter, activity = activity, step = step, created_at = created_at,
    is_unsure = not is_known(known) }
  return list_all({ change })[1], hop, not activity and change.is_unsure and not OF_ENDED[letter]
end

-- The envelope that says what the step of a workflow is: that of its current hop, or the last one at its end.
local function envelope_of(workflow, hop)
  return redis.pcall('HMGET', hop_key(hop), 'envelope')[1] or redis.pcall('HMGET', wf_key(workflow), 'envelope')[1] or ''
end

-- The workflow and the envelope of a listing that says nothing of a step, or may say it of an earlier one, behind others.
-- Returns the bytes.
local function add_unsure(found, text, hop, is_unsure)
  local listed = listing_in(text)
  if not listed or (listed.activity ~= '' and not is_unsure) then return 0 end
  local envelope = envelope_of(listed.workflow, hop)
  if envelope == '' then return 0 end
  found[#found + 1] = listed.workflow
  found[#found + 1] = envelope
  return #envelope
end

-- Have a workflow that has ended leave the list when its record expires.
local function leave_at(workflow, state, at)
  local listed = list(workflow, state)
  if listed then redis.pcall('ZADD', ended, at, listed) end
end

-- See to it that a workflow leaves the list with its record, if it has ended: an older version may have ended it.
local function leave_with(text)
  local listed = listing_in(text)
  if not listed or not OF_ENDED[listed.state] then return end
  local left = redis.pcall('PTTL', wf_key(listed.workflow))
  if type(left) == 'number' and left >= 0 then redis.pcall('ZADD', ended, 'NX', int(now + left), text) end
end

-- Remove a listing whose workflow is gone.
local function unlist(listed)
  local texts = {}
  add_texts(texts, listed)
  in_lots('ZREM', index, texts)
  redis.pcall('ZREM', ended, listed.text)
end

-- Remove from the list those whose records have expired, some of them. Returns how many.
local function drop_expired(most)
  local texts = redis.pcall('ZRANGEBYSCORE', ended, '-inf', '(' .. int(now), 'LIMIT', 0, most)
  if #texts == 0 then return 0 end
  local gone, keys, workflows = {}, {}, {}
  for i, text in ipairs(texts) do
    local listed = listing_in(text) or { workflow = '' }
    workflows[i], keys[i] = listed.workflow, wf_key(listed.workflow)
    if listed.text then add_texts(gone, listed) end
  end
  in_lots('ZREM', ended, texts)
  in_lots('ZREM', index, gone)
  if redis.call('EXISTS', unpack(keys)) == 0 then return #texts end
  -- A large workflow is given its end in pages, and another one may have been recorded under an id.
  for i, workflow in ipairs(workflows) do
    if redis.call('EXISTS', keys[i]) == 1 then
      local listed = relist(workflow)
      local now_listed = listing_in(listed)
      if now_listed and OF_ENDED[now_listed.state] then redis.pcall('ZADD', ended, int(now + DUE_AFTER_MOST), listed) end
    end
  end
  return #texts
end

-- What a hop waits for, by the names of its waits. How old its workflow is stands in the field ':age' of the hop.

local function text_of_wait(name, age, token) return 'n' .. name .. '\0' .. age .. token end

local function list_wait(name, age, token) redis.pcall('ZADD', index, 0, text_of_wait(name, age, token)) end

-- The texts of some waits, behind others; one that an older version recorded has none. A hop has at most MAX_WAITS.
local function add_waits(texts, hop, tokens)
  if #tokens == 0 then return end
  local names = { ':age' }
  for i = 1, math.min(#tokens, MOST_FIELDS) do names[i + 1] = ':name:' .. tokens[i] end
  local found = redis.pcall('HMGET', hop_key(hop), unpack(names))
  for i, token in ipairs(tokens) do
    if found[1] and found[i + 1] then texts[#texts + 1] = text_of_wait(found[i + 1], found[1], token) end
  end
end

-- Have some waits leave the list (drop_gone).
local function unlist_waits(hop, tokens) add_waits(gone_waits, hop, tokens) end

-- Times, in buckets: the first one is up to 10 ms, each next one up to twice as much. They are kept by day, as
-- activity:q(ueued)|r(un):bucket. A script that has much else to list may leave it to others that the day is given its end:
-- each claim does it that is the first one of its bucket.
local function note_time(activity, what, since, is_busy)
  local passed = tonumber(since or nil)
  if not activity or activity == '' or not passed then return end
  local bucket, most = 0, 10
  while bucket < MOST_BUCKETS and now - passed > most do bucket, most = bucket + 1, most * 2 end
  local key = prefix .. ':times:' .. int(math.floor(now / DAY))
  if redis.pcall('HINCRBY', key, activity .. ':' .. what .. ':' .. bucket, 1) == 1 and not is_busy then
    redis.pcall('PEXPIRE', key, int(DAY * (DAYS_KEPT + 1)))
  end
end
