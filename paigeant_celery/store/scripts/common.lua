-- Put in front of every script. The limits of the protocol stand in the place of their names (DUE_AFTER, ...). ARGV[1] is
-- always the prefix, from which keys are computed (Redis Cluster is not supported). All times are in milliseconds of the
-- server's clock; no other clock is used.
--
-- {prefix}:wf:{workflow}      hash    content, state (running|completed|failed|parked|cancelled), hop (the current
--                                     one), created_at, updated_at, deadline (if it has one), origin (of a fork: the
--                                     workflow and the step that it began as, and its place, with spaces between them), used (if it has limits
--                                     and any hop of it was claimed: what it has used, with all calls recorded by now);
--                                     at the end also envelope and failure (JSON); live (how many of its hops in branches
--                                     go on by themselves; the current hop is judged by its own record) and, while its
--                                     keys are given their end in pages, expires_at
-- {prefix}:hops:{workflow}    set     ids of all its hops; those of a large workflow that has ended leave it when they
--                                     are given their end
-- {prefix}:hop:{hop}          hash    workflow, state (held|queued|running|waiting|suspended|parked|done|failed|
--                                     cancelled), queue,
--                                     digest, attempt, fence, owner, token, claimed_at, exhausted, failure (JSON, of
--                                     the last attempt, also while it is parked); redriven_by, published_by and edited_by (tokens); superseded (the
--                                     digests that it had before it was edited); letter (while parked);
--                                     sent and first (the numbers of its latest and of its first message among those
--                                     of its queue); queued_at (since when it waits for a claim, or did);
--                                     activity (of its step, since a version with a list has
--                                     recorded or claimed it); waits (how often it was overdue); given_back
--                                     (how many workers could not read it); last_claim (when it was made, also after
--                                     it is over), claimed_before and taken_over (when the one before it was made, and '1' if its
--                                     owner was lost); traces (what names the spans of its latest attempts, with spaces
--                                     between them); counted (what its recorded calls used, as
--                                     used of the workflow, which has it too); heard (pieces, size and log of its
--                                     conversation at the first claim); heard_in (how long an id's history is kept
--                                     after a claim, and the id); envelope until it is closed;
--                                     suspended_by (fence and owner of the claim that suspended it last), slept ('1' if it had
--                                     to wait then), wake_at ('' for none), quiet ('1' if neither its waking nor its next
--                                     claim is an event), on_branches ('1' if it waited for nothing but its branches
--                                     then); its waits, in fields that begin with ':' (waits.lua); and what it has
--                                     opened as a block, in fields that begin with block:, branch:, how:, order: and
--                                     end: (branches.lua). They stand here so that they expire with it whatever
--                                     version ends the workflow
-- {prefix}:events:{workflow}  stream  what happened: type, hop, ...; never prompts or outputs
-- {prefix}:stream:{workflow}  stream  events of agents while they run: behind (the last event of the workflow before
--                                     it), type, hop, ...; the second number of an id counts all entries that ever came
-- {prefix}:blob:{workflow}    hash    what does not travel: step id -> JSON text of an output; sha256:DIGEST -> a file of
--                                     a prompt, as base64; executed:PLACE -> the record of an earlier step (JSON);
--                                     at:STEP_ID -> its place and the digest of its record; ran:PLACE -> a step that ended
--                                     as it was asked for (JSON); steps:DIGEST -> a page of steps
--                                     to come (JSON); and the workflow's own conversations, each with the fields
--                                     of the next key after :{name}:; and its signals: signals:count (that are kept),
--                                     signals:kept:NAME and signals:taken:NAME (how many of a name ever were),
--                                     signals:text:N:NAME (also call, by, at) of each that is kept, signals:calls (how many
--                                     ever came), signals:id:ID and signals:call:N of the latest ones; and
--                                     signals:asked:NAME, the tokens of open waits for it in branches, oldest first
-- {prefix}:conversation:{id}  hash    a history that steps of any workflow share: pieces (how many), 1, 2, ... (each a
--                                     piece of its text), size (bytes), log (tells it from later ones of the same id);
--                                     expires after the last claim or completion of a step in it, and not while one
--                                     that heard it is suspended
-- {prefix}:journal:{hop}      hash    call -> what was recorded about it (JSON); expires with the workflow, that of a hop in a
--                                     branch when the hop is done. For a hop that
--                                     was parked although its step ended well also: outcome -> what the step gave. Long
--                                     entries are in pieces: NAME.1, NAME.2, ... and NAME.pieces, how many there are
-- {prefix}:due                zset    queued hop -> when its message should have been claimed; hop that is sent
--                                     whatever waits on its queue (a retry, released, redriven) -> when, less AHEAD
-- {prefix}:deadlines          zset    workflow that goes on -> when its deadline is looked at: when it passes, and again
--                                     later while the workflow has not ended
-- {prefix}:parked             zset    parked hop -> since when
-- {prefix}:asleep             zset    suspended hop -> when it is looked at: when the first of the times that it waits for
--                                     is over, and now and then in any case
-- {prefix}:asked              zset    token of an open wait -> since when. One that an older version left behind is removed
--                                     when it is read
-- {prefix}:ending             zset    hop that has opened a block, and is closed -> since when: some of the hops below it
--                                     are still to be closed; workflow that has ended -> since when: some of its keys
--                                     are still to be given their end
-- {prefix}:owner:{owner}      set     hops that the owner runs
-- {prefix}:owners             zset    owner -> end of its lease; exactly the owners whose set is not empty
-- {prefix}:host:{host}        set     the same owners by host (the part of their id before the first ':')
-- {prefix}:touchable:{owner}  string  while it is there, TOUCH may extend the owner's lease: until the longest timeout of
--                                     the steps that it runs is over; it expires by itself
-- {prefix}:letter:{letter}    hash    a dead letter; expires like an ended workflow, never while its hop is parked
-- {prefix}:letters            zset    letter of a refused message -> its cursor; expired ones are removed when the
--                                     next ones come
-- {prefix}:kept               zset    letter of a parked hop -> its cursor
-- {prefix}:index              zset    all workflows, and what they wait for, as they are listed (listing.lua) -> 0
-- {prefix}:ended              zset    as what a workflow that has ended is listed -> when its record expires
-- {prefix}:times:{day}        hash    activity, q(ueued) or r(un), and a bucket -> how many hops took so long on that day
--                                     (since 1970); it expires by itself
-- {prefix}:served             zset    queue -> when a worker that serves it has swept last
-- {prefix}:sent               hash    queue -> how many messages were meant for it
-- {prefix}:reached            hash    queue -> the highest of those numbers known to be reached: the first of a claimed
--                                     hop
-- {prefix}:meta               hash    broker (where it was last reached), broker_id (what it is known by, unless the address
--                                     is all that is known); format (that of the newest worker that ever began); swept_at,
--                                     looked_over (up to where sweeps have looked at the list), listed (the format at which all that
--                                     versions without a list recorded was listed), listing (how far that is: format,
--                                     run of the server, cursor of SCAN); held_until and cut ('1' if the last pass left something) of the sweeping; letter_cursor (the last one given), letters_dropped
--                                     (in favour of newer ones)

local AHEAD = 1e13 -- milliseconds, three centuries: puts hops before all queued ones; there may be thousands of those

local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local due, parked, owners, meta = prefix .. ':due', prefix .. ':parked', prefix .. ':owners', prefix .. ':meta'
local deadlines, asleep, asked = prefix .. ':deadlines', prefix .. ':asleep', prefix .. ':asked'
local ending = prefix .. ':ending'
local letters, kept_letters = prefix .. ':letters', prefix .. ':kept'
local sent_key, reached_key = prefix .. ':sent', prefix .. ':reached'
local served_key = prefix .. ':served'
local function wf_key(workflow) return prefix .. ':wf:' .. workflow end
local function hops_key(workflow) return prefix .. ':hops:' .. workflow end
local function events_key(workflow) return prefix .. ':events:' .. workflow end
local function stream_key(workflow) return prefix .. ':stream:' .. workflow end
local function blob_key(workflow) return prefix .. ':blob:' .. workflow end
local function hop_key(hop) return prefix .. ':hop:' .. hop end
local function journal_key(hop) return prefix .. ':journal:' .. hop end
local function letter_key(letter) return prefix .. ':letter:' .. letter end
local function owner_key(owner) return prefix .. ':owner:' .. owner end
local function host_key(owner) return prefix .. ':host:' .. owner:match('^[^:]*') end
local function touchable_key(owner) return prefix .. ':touchable:' .. owner end

-- The hash of a conversation, and what its fields begin with. One of a single workflow stands beside the workflow's
-- outputs, so that it expires with them whatever version ends the workflow. No id of a step has a colon.
local function conversation_at(workflow, where, name)
  if where == 'workflow' then return blob_key(workflow), ':' .. name .. ':' end
  return prefix .. ':conversation:' .. name, ''
end

-- Redis would write a large number as 1.7e+12.
local function int(number) return string.format('%.0f', number) end

-- Versions run side by side in every deploy. A format adds states, fields and keys, and changes none, so what an older
-- version ends, records or starts is still right. But it must begin nothing: it could not read what it meets. CLAIM and
-- SWEEP ask this first. A newer worker raises the format there, and at its start; after the store was emptied, whoever
-- comes first writes it again.
local newest = tonumber(redis.pcall('HGET', meta, 'format')) or 0
local is_outdated = newest > FORMAT
local function outdated() return redis.error_reply('FORMAT ' .. int(newest)) end
-- Whatever older ones have recorded until then is to be listed, unless nobody had ever recorded anything before a version
-- with a list did, or now.
local function raise_format()
  if newest >= FORMAT then return end
  local format, listed = unpack(redis.call('HMGET', meta, 'format', 'listed'))
  local is_new = not format and (listed == int(FORMAT) or redis.call('EXISTS', due) == 0)
  redis.call('HSET', meta, 'format', FORMAT)
  redis.call('HDEL', meta, 'listed', 'listing')
  if is_new then redis.call('HSET', meta, 'listed', FORMAT) end
end

-- What was used: requests, tool calls, input tokens, output tokens and cost (in 10^-10 US dollars), whole numbers with
-- spaces between them. Nothing counts as zeros; nil if it is something else.
local function sums_in(text)
  local sums = { (text or '0 0 0 0 0'):match('^(%d+) (%d+) (%d+) (%d+) (%d+)$') }
  for i, each in ipairs(sums) do sums[i] = tonumber(each) end
  return #sums == 5 and sums or nil
end

-- Sums with some more, and without others, as they are recorded; numbers hold no more exactly than the most.
local function sums_text(sums, more, less)
  local found = {}
  for i, each in ipairs(sums) do
    found[i] = int(math.max(0, math.min(MOST_COUNTED, each + (more and more[i] or 0) - (less and less[i] or 0))))
  end
  return table.concat(found, ' ')
end

local function corrupt(key, what) return redis.error_reply('CORRUPT ' .. key .. ' ' .. what) end

-- Redis does not roll back a script that fails half-way, so every script asks this before its first write.
-- Takes key, type, key, type, ...; returns an error for the first key that is of another type, otherwise nil.
local function misplaced(...)
  local expected = { ... }
  for i = 1, #expected, 2 do
    local found = redis.call('TYPE', expected[i]).ok
    if found ~= 'none' and found ~= expected[i + 1] then
      return corrupt(expected[i], 'is a ' .. found .. ', not a ' .. expected[i + 1])
    end
  end
end

local function add_event(workflow, ...)
  redis.call('XADD', events_key(workflow), 'MAXLEN', '~', MAX_EVENTS, '*', ...)
end

-- The fields of an event, with the id of its step in front if it is known.
local function with_step(step, ...)
  if step == '' then return ... end
  return 'step', step, ...
end

-- Say that an attempt failed, and where in the code if that is known ('' if not).
local function add_failure(workflow, type, hop, step, error_class, where, ...)
  if where == '' then
    add_event(workflow, 'type', type, 'hop', hop, 'step', step, 'error', error_class, ...)
  else
    add_event(workflow, 'type', type, 'hop', hop, 'step', step, 'error', error_class, 'where', where, ...)
  end
end

-- What a workflow with limits has used, and what of it was counted for calls of a hop; nothing if it has none. The third
-- is an error if either is damaged.
local function totals(workflow, hop)
  local wrong = misplaced(wf_key(workflow), 'hash', hop_key(hop), 'hash')
  if wrong then return nil, nil, wrong end
  local used = redis.call('HGET', wf_key(workflow), 'used')
  if not used then return end
  local all, counted = sums_in(used), sums_in(redis.call('HGET', hop_key(hop), 'counted'))
  if not all then return nil, nil, corrupt(wf_key(workflow), 'has damaged sums') end
  if not counted then return nil, nil, corrupt(hop_key(hop), 'has damaged sums') end
  return all, counted
end

-- Note when the message of a queued hop will be overdue.
local function await_claim(hop, waits)
  redis.call('ZADD', due, int(now + math.min(DUE_AFTER * 2 ^ waits, DUE_AFTER_MOST)), hop)
end

-- Note that a message of the hop is sent now; returns its number.
local function expect(hop, queue, waits)
  local number = redis.call('HINCRBY', sent_key, queue, 1)
  -- One that was sent before waits since then.
  if waits == 0 then
    redis.call('HSET', hop_key(hop), 'sent', number, 'waits', waits, 'queued_at', int(now))
  else
    redis.call('HSET', hop_key(hop), 'sent', number, 'waits', waits)
  end
  await_claim(hop, waits)
  return number
end

-- Have the hop sent by the first sweep after that time.
local function send_at(hop, at) redis.call('ZADD', due, int(at - AHEAD), hop) end

-- The hop of the block that a hop is below, and the number of the branch; nil if it is on the workflow's own slip. The
-- hop of branch 1 of block 3 of a workflow is workflow.3-1.0. No other hop has a '-' behind its first '.'.
local function block_of(hop)
  local above, number = hop:match('^([^.]*%..*)%-(%d+)%.[^-]*$')
  return above, number
end

-- The activity of its step, '' if that is unknown, is noted if the hop is one of those that are listed.
local function write_hop(workflow, hop, state, queue, envelope, digest, activity)
  local more = activity and activity ~= '' and { 'activity', activity } or {}
  redis.call('HSET', hop_key(hop), 'workflow', workflow, 'state', state, 'queue', queue, 'envelope', envelope,
    'digest', digest, 'attempt', 0, 'fence', 0, unpack(more))
end

local function queue_hop(workflow, hop, queue, envelope, digest, activity)
  write_hop(workflow, hop, 'queued', queue, envelope, digest, activity)
  redis.call('SADD', hops_key(workflow), hop)
  redis.call('HSET', hop_key(hop), 'first', expect(hop, queue, 0))
end

-- Have a workflow's deadline looked at when it passes, if it has one.
local function await_deadline(workflow, deadline)
  if deadline and deadline ~= '' then redis.call('ZADD', deadlines, deadline, workflow) end
end

local function give_to(owner, hop, lease)
  redis.call('SADD', owner_key(owner), hop)
  redis.call('SADD', host_key(owner), owner)
  redis.call('ZADD', owners, int(now + lease), owner)
end

local function take_from(owner, ...)
  redis.call('SREM', owner_key(owner), ...)
  if redis.call('EXISTS', owner_key(owner)) == 0 then
    redis.call('ZREM', owners, owner)
    redis.call('SREM', host_key(owner), owner)
    redis.call('DEL', touchable_key(owner))
  end
end

-- Note for how long TOUCH may extend the owner's lease from now on.
local function let_touch(owner, milliseconds)
  if milliseconds > 0 then
    redis.call('SET', touchable_key(owner), '', 'PX', int(milliseconds))
  else
    redis.call('DEL', touchable_key(owner))
  end
end

local function long_unswept(lease) return math.max(lease / 2, LONG_UNSWEPT) end

-- Whether expired leases are left alone for now. If nobody swept for long, the server was away for everybody, or nobody
-- was there to renew. The owners then get the time of one lease to come back; otherwise every run in progress would
-- begin a second time.
local function held(lease)
  local swept_at, held_until = unpack(redis.call('HMGET', meta, 'swept_at', 'held_until'))
  return swept_at and (now - swept_at > long_unswept(lease) or now < tonumber(held_until or 0))
end

-- Whether there is no record of the hop, or none of its workflow, because the server has lost its data or a part of it.
local function is_unknown(hop)
  local workflow = redis.call('HGET', hop_key(hop), 'workflow')
  return redis.call('EXISTS', workflow and wf_key(workflow) or hop_key(hop)) == 0
end

local ENDED = { completed = true, done = true, failed = true, cancelled = true }
local state_at = {} -- key -> the answer: many hops are below the same block

local function is_ended_at(key)
  if state_at[key] == nil then state_at[key] = redis.pcall('HGET', key, 'state') end
  if type(state_at[key]) == 'table' then return false, corrupt(key, 'is no hash') end
  return ENDED[state_at[key]] or false
end

-- Whether a hop in a branch stands below one that has ended, or in a workflow that has. That is all it takes: nobody may
-- write for the hop any more, whatever its own record says, which somebody will close. A hop on the workflow's own slip
-- is closed with whatever ends it, and nothing is asked. Behind the answer stands an error, if a key is of another type.
local function is_cut_off(workflow, hop)
  local above = block_of(hop)
  if not above then return false end
  local is_cut, wrong = is_ended_at(wf_key(workflow))
  while above and not is_cut and not wrong do
    is_cut, wrong = is_ended_at(hop_key(above))
    above = block_of(above)
  end
  return is_cut, wrong
end

-- The tokens of a hop's open waits, oldest first, from the field that lists them.
local function tokens_in(open)
  local tokens = {}
  for token in (open or ''):gmatch('%S+') do tokens[#tokens + 1] = token end
  return tokens
end

-- Ask nobody any longer for what a hop that ends still waits for.
local function withdraw_waits(open)
  local tokens = tokens_in(open)
  if #tokens > 0 then redis.call('ZREM', asked, unpack(tokens)) end
end

-- Shared by the closing operations: what the owner and the fence allow. Returns the workflow if the hop may be closed,
-- otherwise nil and the answer: 1 if the same claim has already closed it in the same way, 0 if not, and -1 if the
-- hop is unknown. Behind them stand the tokens of its open waits, if it has ever had any, how many branches it has
-- written, if it is a block, the activity of its step, and since when that runs.
local function may_close(hop, owner, fence, closed_state)
  local record = redis.call('HMGET', hop_key(hop), 'workflow', 'state', 'owner', 'fence', ':open', 'block:written',
    'activity', 'claimed_at')
  if is_unknown(hop) then return nil, -1 end
  if record[3] ~= owner or record[4] ~= fence then return nil, 0 end
  -- If it is queued and still this owner's, it lapsed and nobody has taken it.
  if record[2] == 'running' or record[2] == 'queued' then
    local is_cut, wrong = is_cut_off(record[1], hop)
    if is_cut or wrong then return nil, wrong or 0 end
    return record[1], nil, record[5], record[6], record[7], record[8]
  end
  return nil, record[2] == closed_state and 1 or 0
end

local function close_hop(hop, owner, state, open)
  take_from(owner, hop)
  redis.call('ZREM', due, hop)
  withdraw_waits(open)
  redis.call('HDEL', hop_key(hop), 'envelope')
  redis.call('HSET', hop_key(hop), 'state', state)
end

local function write_letter(letter, fields)
  local cursor = redis.call('HINCRBY', meta, 'letter_cursor', 1)
  redis.call('HSET', letter_key(letter), unpack(fields))
  redis.call('HSET', letter_key(letter), 'at', int(now), 'cursor', cursor)
  return cursor
end

-- Keep the letter of a parked hop until the hop no longer needs a person. Fields are a flat list.
local function keep_letter(hop, letter, fields)
  local cursor = redis.call('HGET', letter_key(letter), 'cursor') or write_letter(letter, fields)
  redis.call('PERSIST', letter_key(letter)) -- it was refused before, and would expire
  redis.call('ZREM', letters, letter)
  redis.call('ZADD', kept_letters, cursor, letter)
  redis.call('HSET', hop_key(hop), 'letter', letter)
end

local function drop_letter(hop)
  local letter = redis.call('HGET', hop_key(hop), 'letter')
  if not letter then return end
  redis.call('HDEL', hop_key(hop), 'letter')
  redis.call('DEL', letter_key(letter))
  redis.call('ZREM', kept_letters, letter)
end

local function expire_hop(hop, at)
  redis.call('PEXPIREAT', hop_key(hop), at)
  redis.call('PEXPIREAT', journal_key(hop), at)
end

local function expire_workflow(workflow, at)
  for _, key in ipairs({ wf_key, hops_key, events_key, stream_key, blob_key }) do
    redis.call('PEXPIREAT', key(workflow), at)
  end
end

-- End a workflow. All its keys expire in the same millisecond, so that none is ever seen without the others. Those of a
-- large one are left to sweeps, in pages. Returns when they expire.
local function expire(workflow, ttl)
  redis.call('ZREM', deadlines, workflow)
  local at = int(now + ttl)
  local hops = redis.call('SMEMBERS', hops_key(workflow))
  if #hops > EXPIRED_AT_ONCE and type(redis.pcall('ZADD', ending, int(now), workflow)) == 'number' then
    redis.call('HSET', wf_key(workflow), 'expires_at', at)
    return at
  end
  for _, hop in ipairs(hops) do expire_hop(hop, at) end
  expire_workflow(workflow, at)
  return at
end
