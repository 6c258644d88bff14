-- RECORD: add records to the journal of a hop that its owner runs, and count what the calls used whose record is new.
-- ARGV: prefix, hop, owner, fence, of how many records it is said what their calls used ('' for a workflow without
--       limits), key, sums for each, then key, record for each
-- Answer: 1 recorded, now or by an earlier call, or {used, counted} if the workflow has limits |
--         0 overtaken, closed or cancelled, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, spent = unpack(ARGV, 1, 5)
local first_record = 6 + 2 * (tonumber(spent) or 0)

local wrong = misplaced(hop_key(hop), 'hash', journal_key(hop), 'hash')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence)
if not workflow then return answer end
local used, counted
if spent ~= '' then
  used, counted, wrong = totals(workflow, hop)
  if wrong then return wrong end
end
local added
for i = 6, used and first_record - 1 or 0, 2 do
  if redis.call('HEXISTS', journal_key(hop), ARGV[i]) == 0 then
    added = sums_in(sums_text(added or sums_in(), sums_in(ARGV[i + 1])))
  end
end

for i = first_record, #ARGV, 2 do redis.call('HSET', journal_key(hop), ARGV[i], ARGV[i + 1]) end
if not used then return 1 end
if added then
  redis.call('HSET', wf_key(workflow), 'used', sums_text(used, added))
  redis.call('HSET', hop_key(hop), 'counted', sums_text(counted, added))
end
return { sums_text(used, added), sums_text(counted, added) }
