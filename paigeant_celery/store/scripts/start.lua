-- START: record a workflow and its first hop; ADOPT: the same for one that is known only from its message.
-- ARGV: prefix, workflow, content, hop, queue, envelope, digest, deadline ('' for none), activity and id of its step, then
--       to adopt it: when its
--       message was sent, how long ago that may be at most, and how many attempts of the hop were begun ('' each
--       otherwise), the workflow that it is a fork of and the step at which that was ('' each otherwise), how many blobs
--       are copied from there, their names, then name, text for each other blob
-- Answer: 'started' | 'exists' (same content) | 'conflict' (other content) | 'expired' (too old to be adopted) | 'gone'
--         (there is no workflow any more that it could be a fork of) | 'too_large' (it would copy more than MAX_COPIED)

local _, workflow, content, hop, queue, envelope, digest, deadline, activity, step = unpack(ARGV, 1, 10)
local sent_at, max_age, begun, origin, at_step, copied = unpack(ARGV, 11, 12 + 4)
local first_copied = 12 + 5
local first_blob = first_copied + copied
if sent_at == '' then sent_at = nil end

local wrong = misplaced(wf_key(workflow), 'hash', hop_key(hop), 'hash', hops_key(workflow), 'set',
  events_key(workflow), 'stream', blob_key(workflow), 'hash', due, 'zset', sent_key, 'hash', deadlines, 'zset')
if wrong then return wrong end

local recorded, state, current = unpack(redis.call('HMGET', wf_key(workflow), 'content', 'state', 'hop'))
-- The server may lose a part of a workflow, for example if it evicts keys. A message brings either part back.
local lacks_hop = sent_at and state == 'running' and current == hop and redis.call('EXISTS', hop_key(hop)) == 0
if recorded and not lacks_hop then return recorded == content and 'exists' or 'conflict' end
if not recorded and redis.call('EXISTS', wf_key(workflow)) == 1 then
  return corrupt(wf_key(workflow), 'has no content')
end
local hop_state, owner = unpack(redis.call('HMGET', hop_key(hop), 'state', 'owner'))
local is_open = hop_state == 'queued' or hop_state == 'running'
if redis.call('EXISTS', hop_key(hop)) == 1 and not (sent_at and is_open and is_unknown(hop)) then
  return corrupt(hop_key(hop), 'is without its workflow')
end
if sent_at and now - sent_at > tonumber(max_age) then return 'expired' end

wrong = owner and misplaced(owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set')
if wrong then return wrong end
if origin ~= '' then
  wrong = misplaced(wf_key(origin), 'hash', blob_key(origin), 'hash')
  if wrong then return wrong end
  if redis.call('EXISTS', wf_key(origin)) == 0 then return 'gone' end
end
local sizes, total = {}, 0
for i = first_copied, first_blob - 1 do
  sizes[i] = redis.call('HSTRLEN', blob_key(origin), ARGV[i])
  total = total + sizes[i]
end
if total > MAX_COPIED then return 'too_large' end

-- Before the first worker of a new store begins, what this version records is all that there is, and it is listed.
local is_new_store = newest == 0 and redis.pcall('HEXISTS', meta, 'format') == 0 and redis.call('EXISTS', due) == 0

-- Writes that need memory come first: a full server refuses a script at its first write, or not at all.
redis.call('HSET', wf_key(workflow), 'updated_at', int(now))
if not recorded then
  redis.call('HSET', wf_key(workflow), 'content', content, 'state', 'running', 'hop', hop, 'created_at', int(now))
  if deadline ~= '' then redis.call('HSET', wf_key(workflow), 'deadline', deadline) end
end
local next_copied = first_copied
while next_copied < first_blob do
  local first, last, size = next_copied, next_copied, sizes[next_copied]
  while last + 1 < first_blob and last + 1 - first < MOST_FIELDS / 2 and size + sizes[last + 1] <= COPIED_AT_ONCE do
    last = last + 1
    size = size + sizes[last]
  end
  next_copied = last + 1
  local found = redis.call('HMGET', blob_key(origin), unpack(ARGV, first, last))
  local fields = {}
  for i, text in ipairs(found) do
    if text then fields[#fields + 1] = ARGV[first + i - 1]; fields[#fields + 1] = text end
  end
  if #fields > 0 then redis.call('HSET', blob_key(workflow), unpack(fields)) end
end
for first = first_blob, #ARGV, MOST_FIELDS do
  redis.call('HSET', blob_key(workflow), unpack(ARGV, first, math.min(first + MOST_FIELDS - 1, #ARGV)))
end
if origin ~= '' then redis.call('HSET', wf_key(workflow), 'origin', origin .. ' ' .. at_step .. ' ' .. hop:match('%.(.*)')) end
if owner then take_from(owner, hop) end
redis.call('DEL', hop_key(hop))
await_deadline(workflow, deadline)
queue_hop(workflow, hop, queue, envelope, digest, activity)
-- Its fence is above that of any record that was lost, so that nobody who claimed that one can write for this one.
if sent_at then redis.call('HSET', hop_key(hop), 'attempt', begun, 'fence', int(now)) end
list(workflow, 'q', activity, step, not recorded and now or nil)
if is_new_store then redis.pcall('HSET', meta, 'listed', FORMAT) end
add_event(workflow, 'type', sent_at and 'adopted' or 'started', 'hop', hop, 'queue', queue)
if origin ~= '' then add_event(workflow, 'type', 'forked', 'hop', hop, 'step', at_step, 'from', origin) end
return 'started'
