-- Put in front of every script. ARGV[1] is always the prefix; keys are computed from it (Redis Cluster is
-- not supported). All times are milliseconds of the server's clock, which is the only one.
--
-- {prefix}:wf:{workflow}      hash    content, state (running|completed|failed), hop (the current one), created_at,
--                                     updated_at; at the end also envelope and failure (JSON)
-- {prefix}:hops:{workflow}    set     ids of all its hops
-- {prefix}:hop:{hop}          hash    workflow, state (queued|running|done|failed), queue, digest, attempt, fence, owner,
--                                     token, claimed_at, exhausted; envelope until the hop is closed
-- {prefix}:events:{workflow}  stream  what happened: type, hop, ...; never prompts or outputs
-- {prefix}:blob:{workflow}    hash    step id -> JSON text of an output that does not travel
-- {prefix}:due                zset    queued hop -> when its message should have been claimed
-- {prefix}:owner:{owner}      set     hops that the owner runs
-- {prefix}:owners             zset    owner -> end of its lease; exactly the owners whose set is not empty
-- {prefix}:meta               hash    broker, format

local DUE_AFTER = 5000 -- a queued hop's message is overdue then
local MAX_EVENTS = 1000 -- of one workflow, about

local prefix = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local due, owners = prefix .. ':due', prefix .. ':owners'
local function wf_key(workflow) return prefix .. ':wf:' .. workflow end
local function hops_key(workflow) return prefix .. ':hops:' .. workflow end
local function events_key(workflow) return prefix .. ':events:' .. workflow end
local function blob_key(workflow) return prefix .. ':blob:' .. workflow end
local function hop_key(hop) return prefix .. ':hop:' .. hop end
local function owner_key(owner) return prefix .. ':owner:' .. owner end

-- Redis would write a large number as 1.7e+12.
local function int(number) return string.format('%.0f', number) end

local function corrupt(key, what) return redis.error_reply('CORRUPT ' .. key .. ' ' .. what) end

-- Redis does not undo a script that fails half-way, so every script asks this before its first write.
-- Takes key, type, key, type, ...; returns an error for the first key that is of another type, else nil.
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

local function queue_hop(workflow, hop, queue, envelope, digest)
  redis.call('HSET', hop_key(hop), 'workflow', workflow, 'state', 'queued', 'queue', queue, 'envelope', envelope,
    'digest', digest, 'attempt', 0, 'fence', 0)
  redis.call('SADD', hops_key(workflow), hop)
  redis.call('ZADD', due, int(now + DUE_AFTER), hop)
end

local function take_from(owner, hop)
  redis.call('SREM', owner_key(owner), hop)
  if redis.call('EXISTS', owner_key(owner)) == 0 then redis.call('ZREM', owners, owner) end
end

-- Shared by the closing operations: what the owner and the fence allow. Returns the workflow where the hop may be
-- closed, else nil and what to answer: 1 where it was closed so by the same claim before, 0 where not.
local function may_close(hop, owner, fence, closed_state)
  local record = redis.call('HMGET', hop_key(hop), 'workflow', 'state', 'owner', 'fence')
  if record[3] ~= owner or record[4] ~= fence then return nil, 0 end
  if record[2] == 'running' then return record[1] end
  return nil, record[2] == closed_state and 1 or 0
end

local function close_hop(hop, owner, state)
  take_from(owner, hop)
  redis.call('HDEL', hop_key(hop), 'envelope')
  redis.call('HSET', hop_key(hop), 'state', state)
end

-- All keys of a workflow end in the same millisecond, so that none is ever met without the others.
local function expire(workflow, ttl)
  local at = int(now + ttl)
  for _, hop in ipairs(redis.call('SMEMBERS', hops_key(workflow))) do
    redis.call('PEXPIREAT', hop_key(hop), at)
  end
  for _, key in ipairs({ wf_key, hops_key, events_key, blob_key }) do
    redis.call('PEXPIREAT', key(workflow), at)
  end
end
