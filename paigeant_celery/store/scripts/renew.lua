-- RENEW: extend an owner's lease, and say which of its runs lost their hop.
-- A lapsed owner is revived with it: a hop that nobody took still names the owner and the fence.
-- ARGV: prefix, owner, lease, for how long TOUCH may extend the lease ('' if that stays as it is), then hop, fence for
--       each hop that the owner runs
-- Answer: {the hops that it may no longer write for}, {hop, fence, ... of those that are listed as its own but not
--         named}, {those of the first that were cancelled}, {hops that are unknown: the server has lost its data},
--         {hop, number, ... of those that are not lost and have settled waits}

local _, owner, lease, touchable = unpack(ARGV, 1, 4)

local wrong = misplaced(owners, 'zset', owner_key(owner), 'set', host_key(owner), 'set', due, 'zset')
if wrong then return wrong end
for i = 5, #ARGV, 2 do
  wrong = misplaced(hop_key(ARGV[i]), 'hash')
  if wrong then return wrong end
  if block_of(ARGV[i]) then _, wrong = is_cut_off(ARGV[i]:match('^[^.]*'), ARGV[i]) end
  if wrong then return wrong end
end

local LEASED = { running = true, queued = true }
local lost, cancelled, unknown, settled, revived = {}, {}, {}, {}, {}
for i = 5, #ARGV, 2 do
  -- A hop that this very claim closed is not lost: its run is about to end.
  local hop = ARGV[i]
  local record = redis.call('HMGET', hop_key(hop), 'owner', 'fence', 'state', ':settled', 'workflow')
  if is_unknown(hop) then
    unknown[#unknown + 1] = hop
    take_from(owner, hop)
  elseif block_of(hop) and LEASED[record[3]] and is_cut_off(record[5], hop) then
    lost[#lost + 1] = hop
    cancelled[#cancelled + 1] = hop
  elseif record[1] ~= owner or record[2] ~= ARGV[i + 1] then
    lost[#lost + 1] = hop
    if record[3] == 'cancelled' then cancelled[#cancelled + 1] = hop end
  else
    if record[3] == 'queued' then
      redis.call('HSET', hop_key(hop), 'state', 'running')
      redis.call('ZREM', due, hop)
      give_to(owner, hop, lease)
      if not block_of(hop) then revived[#revived + 1] = { workflow = record[5], state = 'r' } end
    end
    if (tonumber(record[4] or 0) or 0) > 0 then
      settled[#settled + 1] = hop
      settled[#settled + 1] = record[4]
    end
  end
end
list_all(revived)

-- An owner that names no hops keeps no lease alive. If the store still lists some, nobody runs them.
if redis.call('EXISTS', owner_key(owner)) == 0 then
  redis.call('ZREM', owners, owner)
  redis.call('SREM', host_key(owner), owner)
  redis.call('DEL', touchable_key(owner))
elseif #ARGV > 4 then
  redis.call('ZADD', owners, int(now + lease), owner)
  if touchable ~= '' then let_touch(owner, tonumber(touchable)) end
end

local named, stray = {}, {}
for i = 5, #ARGV, 2 do named[ARGV[i]] = true end
for _, hop in ipairs(redis.call('SMEMBERS', owner_key(owner))) do
  if not named[hop] then
    stray[#stray + 1] = hop
    stray[#stray + 1] = redis.call('TYPE', hop_key(hop)).ok == 'hash' and redis.call('HGET', hop_key(hop), 'fence') or '0'
  end
end
return { lost, stray, cancelled, unknown, settled }
