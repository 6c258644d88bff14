-- BRANCHES_OF: read where a hop stands, and some of the branches that it has opened as a block, as of one moment.
-- ARGV: prefix, hop, number of the first branch, how many at most
-- Answer: nil if the hop is unknown, otherwise {{hop, state, queue, envelope, attempt, failure, when it is tried again,
--         when it goes on in any case, '1' if it waits for its branches, {the fields of its waits}, {what it has opened as
--         a block}, who runs it, since when, since when the lease of its owner is over}, {{number, how it ended, order, end, {the same of its hop}} for each branch}}; nil for what is not there

local _, hop, first, limit = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', due, 'zset', owners, 'zset')
if wrong then return wrong end
local workflow = redis.call('HGET', hop_key(hop), 'workflow')
if not workflow then return nil end

local FIELDS = { 'state', 'queue', 'envelope', 'attempt', 'failure', 'given_back', 'wake_at', ':waits', 'fence',
  'suspended_by', 'on_branches', 'block:written', 'owner', 'claimed_at' }

-- When the lease of an owner ends; asked for once, as one runs many branches.
local leases = {}
local function lease_end(owner)
  if leases[owner] == nil then leases[owner] = tonumber(redis.call('ZSCORE', owners, owner) or nil) or false end
  return leases[owner]
end

local function reading_of(each)
  local record = {}
  for i, value in ipairs(redis.call('HMGET', hop_key(each), unpack(FIELDS))) do record[FIELDS[i]] = value end
  local state = record.state
  local is_cut = state and not ENDED[state] and is_cut_off(workflow, each)
  if is_cut then state = 'cancelled' end
  local retry_at = state == 'waiting' and redis.call('ZSCORE', due, each)
  local is_told = state == 'waiting' or state == 'parked' or (state == 'queued' and record.given_back)
  -- What ends a hop leaves what SUSPEND wrote; a hop that was claimed after it has a higher fence.
  local owner = state == 'running' and record.owner
  local leased = owner and lease_end(owner)
  local slept = state == 'cancelled' and record.suspended_by and record.suspended_by:match('^%d+') == record.fence
  return { each, state, record.queue, not is_cut and record.envelope, record.attempt, is_told and record.failure,
    retry_at and int(retry_at + AHEAD), (state == 'suspended' or slept) and record.wake_at,
    state == 'suspended' and record.on_branches, record[':waits'] and wait_fields(each) or {},
    record['block:written'] and block_values(each),
    owner, owner and record.claimed_at, leased and leased <= now and int(leased) }
end

local written = tonumber(redis.call('HGET', hop_key(hop), 'block:written') or 0) or 0
local branches = {}
for number = tonumber(first), math.min(written, first + limit) - 1 do
  local of = ':' .. int(number)
  local below, how, order, end_ = unpack(redis.call('HMGET', hop_key(hop), 'branch' .. of, 'how' .. of, 'order' .. of, 'end' .. of))
  wrong = below and misplaced(hop_key(below), 'hash')
  if wrong then return wrong end
  if below then branches[#branches + 1] = { int(number), how, order, end_, reading_of(below) } end
end
return { reading_of(hop), branches }
