-- OPEN_BLOCK: make the first branches of a block live, once, and say how they are joined.
-- ARGV: prefix, hop (of the block), owner, fence, count, needed, counted, spare ('' for any number), at_once, timeout
--       (seconds, '' for none), the same in milliseconds (0 for none)
-- Answer: {{what the block has opened, as block_values gives it}, {hop, queue, envelope, digest, ... to be sent}} |
--         0 overtaken or closed, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, count, needed, counted, spare, at_once, timeout, lasts = unpack(ARGV)

local wrong = misplaced(hop_key(hop), 'hash', due, 'zset', sent_key, 'hash', deadlines, 'zset')
if wrong then return wrong end
local workflow, answer, _, written = may_close(hop, owner, fence)
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream')
if wrong then return wrong end
if redis.call('HEXISTS', hop_key(hop), 'block:count') == 1 then return { block_values(hop), {} } end

local opened, queues, sends = math.min(tonumber(at_once), tonumber(count)), {}, {}
if opened > (tonumber(written or 0) or 0) then return corrupt(hop_key(hop), 'opens branches that are not recorded') end
for number = 0, opened - 1 do
  local below = redis.call('HGET', hop_key(hop), branch_field(number))
  wrong = misplaced(hop_key(below or ''), 'hash')
  if wrong then return wrong end
  local state, queue, envelope, digest =
    unpack(redis.call('HMGET', hop_key(below or ''), 'state', 'queue', 'envelope', 'digest'))
  if state == 'held' then
    if not (queue and envelope and digest) then return corrupt(hop_key(below), 'lacks fields') end
    wrong = not queues[queue] and may_not_send(queue)
    if wrong then return wrong end
    queues[queue] = true
    for _, value in ipairs({ below, queue, envelope, digest }) do sends[#sends + 1] = value end
  end
end

redis.call('HSET', hop_key(hop), 'block:written', written or 0, 'block:count', count, 'block:needed', needed,
  'block:counted', counted, 'block:spare', spare, 'block:at_once', at_once, 'block:timeout', timeout, 'block:opened',
  int(opened), 'block:under_way', int(opened), 'block:succeeded', 0, 'block:failed', 0, 'block:ended', 0,
  'block:until', timeout ~= '' and int(now + lasts) or '')
for i = 1, #sends, 4 do open_held(sends[i], sends[i + 1]) end
if #sends > 0 then count_live(workflow, sends[1], #sends / 4) end
add_event(workflow, 'type', 'branches_opened', 'hop', hop, 'branches', count)
return { block_values(hop), sends }
