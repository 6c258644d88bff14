-- TIME_OUT: give a wait up if its time is over and it is open. A suspended hop is queued; a sweep sends it.
-- ARGV: prefix, token
-- Answer: {the fields of the wait}; none if it is unknown

local token = ARGV[2]
local hop = token:match('^[^~]*')

local wrong = misplaced(hop_key(hop), 'hash', asked, 'zset', asleep, 'zset', due, 'zset', sent_key, 'hash')
if wrong then return wrong end
local workflow = redis.call('HGET', hop_key(hop), 'workflow')
local state, passes_at = unpack(redis.call('HMGET', hop_key(hop), ':state:' .. token, ':until:' .. token))
if not state or is_unknown(hop) then return {} end
if state == 'open' and has_passed(passes_at) then
  wrong = misplaced(events_key(workflow), 'stream') or may_not_wake(workflow, hop) or
    (block_of(hop) and misplaced(blob_key(workflow), 'hash'))
  if wrong then return wrong end
  wake(workflow, hop)
  give_up_passed(hop, workflow, { token })
  drop_gone()
end
return fields_of(hop, token)
