-- LISTED: workflows as they are listed, after a look at the record of each. What the list says wrongly is corrected.
-- ARGV: prefix, how many at most, then either
--       'merged', from, to, ...: the newest first, of several parts of the index by state, or by activity and state
--       'ids', name of what they wait for ('' for any), states ('' for any), activity ('' for any), the least and the
--         greatest age ('' for any), then from, to, or '', '', id, ... for those alone: by id
--       'waits', name, from, to, states, activity: the newest first, of those that wait for something of that name
--       'named', id, ...: those
-- Answer: {{workflow, state (a letter), activity, step, created_at, updated_at, failure, queue, attempt, owner, since when it
--         runs, since when the lease of its owner is over ('' if it is not), when it is tried again, how many messages are
--         before it, when its queue was served last, the error of its last attempt, envelope (if nothing is known of its
--         step, or only of an earlier one), the names of its open waits, the queues on which branches wait for a
--         worker}, ...}, behind what it goes on (age and workflow, or workflow; '' at the
--         end), {those whose records cannot be read}}

local _, most, how = unpack(ARGV, 1, 3)
most = tonumber(most)

local served_at, reached_on, lease_until = {}, {}, {}
local unreadable, bytes = {}, 0

local function number_at(cache, command, key, member)
  if cache[member] == nil then
    local found = redis.pcall(command, key, member)
    cache[member] = type(found) == 'string' and tonumber(found) or false
  end
  return cache[member]
end

local function text_or_empty(value) return value or '' end

-- The envelope of a workflow, unless this answer is large already: whoever reads the next one gets it then.
local function small_envelope_of(workflow, hop)
  local envelope = bytes < MOST_BYTES and envelope_of(workflow, hop) or ''
  bytes = bytes + #envelope
  return envelope
end

-- Add to some texts those that are not among them.
local function add_new(texts, seen, more)
  for _, text in ipairs(more) do
    if text and not seen[text] then
      seen[text] = true
      texts[#texts + 1] = text
    end
  end
end

-- The names of open waits of a hop.
local function names_of(hop, open)
  local names, tokens = {}, tokens_in(open or nil)
  for i = 1, math.min(#tokens, MOST_FIELDS) do names[i] = ':name:' .. tokens[i] end
  return #names > 0 and redis.pcall('HMGET', hop_key(hop), unpack(names)) or {}
end

-- Some branches of a block that have not ended: the hops at which they stand, the first opened first.
local function open_below(block, opened)
  local fields, found = {}, {}
  for number = 0, opened - 1 do
    if number < NUMBERS_BELOW or number >= opened - NUMBERS_BELOW then
      fields[#fields + 1] = 'branch:' .. int(number)
      fields[#fields + 1] = 'how:' .. int(number)
    end
  end
  local values = #fields > 0 and redis.pcall('HMGET', hop_key(block), unpack(fields)) or {}
  for i = 1, #values, 2 do
    if values[i] and not values[i + 1] and #found < LOOKED_BELOW then found[#found + 1] = values[i] end
  end
  return found
end

-- The queues on which branches of a block wait for a worker; adds the names of what others wait for.
local function look_below(block, opened, names, seen)
  local queues, seen_queues, asking = {}, {}, 0
  for _, hop in ipairs(open_below(block, opened)) do
    local state, queue, open = unpack(redis.pcall('HMGET', hop_key(hop), 'state', 'queue', ':open'))
    if state == 'queued' or state == 'waiting' then
      add_new(queues, seen_queues, { queue })
    elseif state == 'suspended' and open and open ~= '' and asking < ASKING_BELOW then
      asking = asking + 1
      add_new(names, seen, names_of(hop, open))
    end
  end
  return queues
end

-- What a list shows of a workflow, and as what it is listed now; nil if it shows nothing, or there is none.
local function read(workflow)
  local record = redis.pcall('HMGET', wf_key(workflow), 'state', 'hop', 'created_at', 'updated_at', 'failure')
  local state, hop, created_at, updated_at, why = unpack(record)
  local listed = listing_of(workflow)
  if record.err or not (state and hop and created_at and updated_at) then
    if redis.call('EXISTS', wf_key(workflow)) == 1 then
      unreadable[#unreadable + 1] = workflow
      return nil, listed
    end
    if listed then unlist(listed) end
    return nil
  end
  local found = redis.pcall('HMGET', hop_key(hop), 'state', 'queue', 'attempt', 'failure', 'given_back', 'owner', 'claimed_at',
    'sent', ':open', 'block:written', 'block:opened', 'activity')
  local hop_state, queue, attempt, failure, given_back, owner, since, sent, open, written, opened, known = unpack(found)
  local letter = letter_of(state, hop_state, given_back)
  local age = age_of(created_at)
  if not (letter and age) then
    unreadable[#unreadable + 1] = workflow
    return nil, listed
  end
  if not listed or listed.state ~= letter or listed.age ~= age then
    listed = listing_in(list_all({
      { workflow = workflow, state = letter, created_at = created_at, is_unsure = not is_known(known) },
    })[1])
    if not listed then return nil end
    leave_with(listed.text)
  end
  -- As READ says it.
  local told = (state == 'parked' or state == 'failed') and why
  if hop_state == 'parked' and written then
    told = failure or told
  elseif hop_state == 'waiting' or (hop_state == 'queued' and given_back) then
    told = failure
  end
  local retry_at = hop_state == 'waiting' and redis.pcall('ZSCORE', due, hop)
  local waits, seen, queues_below = {}, {}, {}
  if hop_state and not ENDED[hop_state] then add_new(waits, seen, names_of(hop, open)) end
  if letter == 's' and written then queues_below = look_below(hop, tonumber(opened or nil) or 0, waits, seen) end
  local before = ''
  if letter == 'q' and queue and (tonumber(sent or nil) or 0) > 0 then
    before = int(math.max(0, sent - (number_at(reached_on, 'HGET', reached_key, queue) or 0) - 1))
  end
  local leased = letter == 'r' and owner and number_at(lease_until, 'ZSCORE', owners, owner)
  local at = queue and number_at(served_at, 'ZSCORE', served_key, queue)
  -- An older version may have recorded its hop, or an earlier one, and whoever reads the envelope knows its step.
  local is_unsure = listed.activity == '' or not (is_known(known) or OF_ENDED[letter])
  local envelope = is_unsure and small_envelope_of(workflow, hop)
  return { workflow, letter, listed.activity, listed.step, created_at, updated_at, text_or_empty(told), text_or_empty(queue),
    text_or_empty(attempt), text_or_empty(letter == 'r' and owner), text_or_empty(letter == 'r' and since),
    leased and leased <= now and int(leased) or '', type(retry_at) == 'string' and int(retry_at + AHEAD) or '', before, at and int(at) or '',
    text_or_empty(letter == 'q' and failure), text_or_empty(envelope), waits, queues_below }, listed
end

-- The age and the workflow of a text that is by state, or by activity and state.
local function parts_of(text)
  local first = text:sub(1, 1) == 's' and 1 or text:find(':', 1, true)
  return text:sub(first + 2, first + 1 + AGE), text:sub(first + 2 + AGE)
end

local function range(from, to, count)
  local found = redis.pcall('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, count)
  if found.err then return {} end
  return found
end

-- Whether a text is one of a listing.
local function is_of(text, listed)
  local texts = {}
  if listed then add_texts(texts, listed) end
  for _, each in ipairs(texts) do
    if each == text then return true end
  end
  return false
end

-- Whether one of the texts of a listing is in the parts of the index that are asked for.
local function is_asked_for(listed)
  local texts = {}
  if listed then add_texts(texts, listed) end
  for i = 4, #ARGV, 2 do
    local from, to = ARGV[i]:sub(2), ARGV[i + 1]:sub(2)
    for _, text in ipairs(texts) do
      if text < to and (text > from or (text == from and ARGV[i]:sub(1, 1) == '[')) then return true end
    end
  end
  return false
end

local function merged()
  local found, is_cut = {}, false
  for i = 4, #ARGV, 2 do
    local texts = range(ARGV[i], ARGV[i + 1], most + 1)
    for _, text in ipairs(texts) do
      local age, workflow = parts_of(text)
      found[#found + 1] = { text = text, place = age .. workflow, workflow = workflow }
    end
  end
  table.sort(found, function(one, other) return one.place < other.place end)
  local entries, last = {}, ''
  for i, each in ipairs(found) do
    if i > most then return entries, last end
    last = each.place
    local entry, listed = read(each.workflow)
    if not is_of(each.text, listed) then redis.pcall('ZREM', index, each.text) end -- it stands elsewhere
    if is_asked_for(listed) then entries[#entries + 1] = entry end
  end
  return entries, ''
end

local function fits(states, activity, entry)
  return (states == '' or states:find(entry.state, 1, true)) and (activity == '' or activity == entry.activity)
end

-- Whether a text is of a wait that is open; if not, it goes.
local function is_open(text, name)
  local token = text:sub(#name + 3 + AGE) -- behind 'n', the name, a NUL and the age
  local hop, workflow = token:match('^[^~]*'), token:match('^[^.]*')
  local hop_state, state = unpack(redis.pcall('HMGET', hop_key(hop), 'state', ':state:' .. token))
  if state == 'open' and not ENDED[hop_state] and not is_cut_off(workflow, hop) then return true end
  redis.pcall('ZREM', index, text)
  return false
end

-- Whether a workflow waits for something of that name.
local function waits_for(name, listed)
  local begins = 'n' .. name .. '\0' .. listed.age .. listed.workflow
  for _, text in ipairs(range('[' .. begins .. '.', '(' .. begins .. '/', MAX_WAITS)) do
    if is_open(text, name) then return true end
  end
  return false
end

local function by_id()
  local name, states, activity, least, greatest, from, to = unpack(ARGV, 4, 10)
  local at_once = name == '' and MOST_SCANNED or MOST_LOOKED_AT
  local entries, last, texts = {}, '', from ~= '' and range(from, to, at_once) or {}
  for i = 11, #ARGV do texts[#texts + 1] = (listing_of(ARGV[i]) or {}).text end
  for _, text in ipairs(texts) do
    local listed = listing_in(text)
    if listed and fits(states, activity, listed) and (least == '' or listed.age >= least) and
      (greatest == '' or listed.age <= greatest) and (name == '' or waits_for(name, listed)) then
      if #entries >= most then return entries, last end
      local entry, now_listed = read(listed.workflow)
      if not is_of(text, now_listed) then redis.pcall('ZREM', index, text) end
      if entry and fits(states, activity, { state = entry[2], activity = entry[3] }) then entries[#entries + 1] = entry end
    end
    last = listed and listed.workflow or last
  end
  return entries, from ~= '' and #texts == at_once and last or ''
end

local function by_wait()
  local name, from, to, states, activity = unpack(ARGV, 4, 8)
  local begins = #name + 2
  local entries, last, texts, seen = {}, '', range(from, to, LISTED_AT_ONCE * 2), {}
  for _, text in ipairs(texts) do
    local age, token = text:sub(begins + 1, begins + AGE), text:sub(begins + AGE + 1)
    local workflow = token:match('^[^.]*')
    if not seen[workflow] and is_open(text, name) then
      if #entries >= most then return entries, last end
      local entry = read(workflow)
      if entry and fits(states, activity, { state = entry[2], activity = entry[3] }) then entries[#entries + 1] = entry end
      seen[workflow] = true
    end
    last = age .. workflow
  end
  return entries, #texts == LISTED_AT_ONCE * 2 and last or ''
end

local function named()
  local entries = {}
  for i = 4, #ARGV do entries[#entries + 1] = read(ARGV[i]) end
  return entries, ''
end

local entries, last = ({ merged = merged, ids = by_id, waits = by_wait, named = named })[how]()
return { entries, last, unreadable }
