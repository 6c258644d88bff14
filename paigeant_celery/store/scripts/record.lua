-- RECORD: add records to the journal of a hop that its owner runs.
-- ARGV: prefix, hop, owner, fence, then key, record for each
-- Answer: 1 recorded, now or by an earlier call | 0 overtaken, closed or cancelled, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence = unpack(ARGV, 1, 4)

local wrong = misplaced(hop_key(hop), 'hash', journal_key(hop), 'hash')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence)
if not workflow then return answer end
for i = 5, #ARGV, 2 do redis.call('HSET', journal_key(hop), ARGV[i], ARGV[i + 1]) end
return 1
