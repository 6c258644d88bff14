-- HOLD: record the first hops of some branches of a block, which nobody may claim before the block opens them.
-- ARGV: prefix, hop (of the block), owner, fence, number of the first branch, how many hops follow, hop, queue, envelope,
--       digest for each, then name, text for each item that does not travel
-- Answer: {how many branches are recorded now}, these with them if those before them were | 'too_many' (hops of the
--         workflow) | 0 overtaken or closed, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, first, count = unpack(ARGV, 1, 6)
local first_hop, of_hop = 6 + 1, 4
local first_blob = first_hop + of_hop * count

local wrong = misplaced(hop_key(hop), 'hash')
if wrong then return wrong end
local workflow, answer, _, written = may_close(hop, owner, fence)
if not workflow then return answer end
wrong = misplaced(hops_key(workflow), 'set', blob_key(workflow), 'hash')
if wrong then return wrong end
written = tonumber(written or 0) or 0
if tonumber(first) ~= written or redis.call('HEXISTS', hop_key(hop), 'block:count') == 1 then return { written } end
if redis.call('SCARD', hops_key(workflow)) + count > MAX_HOPS then return 'too_many' end
local hops, keys = {}, {}
for i = first_hop, first_blob - 1, of_hop do
  hops[#hops + 1] = ARGV[i]
  keys[#keys + 1] = hop_key(ARGV[i])
end
if #keys > 0 and redis.call('EXISTS', unpack(keys)) > 0 then
  for _, key in ipairs(keys) do
    if redis.call('EXISTS', key) == 1 then return corrupt(key, 'was there before it was recorded') end
  end
end

local fields = { 'block:written', int(written + count) }
for number, each in ipairs(hops) do
  fields[#fields + 1] = branch_field(written + number - 1)
  fields[#fields + 1] = each
end
redis.call('HSET', hop_key(hop), unpack(fields))
for i = first_blob, #ARGV, 2 do redis.call('HSET', blob_key(workflow), ARGV[i], ARGV[i + 1]) end
for i = first_hop, first_blob - 1, of_hop do
  local _, queue, envelope, digest = unpack(ARGV, i, i + of_hop - 1)
  write_hop(workflow, ARGV[i], 'held', queue, envelope, digest)
end
if #hops > 0 then redis.call('SADD', hops_key(workflow), unpack(hops)) end
return { int(written + count) }
