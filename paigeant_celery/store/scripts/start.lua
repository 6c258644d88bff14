-- START: record a workflow and its first hop; ADOPT: the same for one that is known only from its message.
-- ARGV: prefix, workflow, content, hop, queue, envelope, digest, then to adopt it: when its message was sent, and how
--       long ago that may be at most
-- Answer: 'started' | 'exists' (same content) | 'conflict' (other content) | 'expired' (too old to be adopted)

local _, workflow, content, hop, queue, envelope, digest, sent_at, max_age = unpack(ARGV)

local wrong = misplaced(wf_key(workflow), 'hash', hop_key(hop), 'hash', hops_key(workflow), 'set',
  events_key(workflow), 'stream', due, 'zset', sent_key, 'hash')
if wrong then return wrong end

local recorded = redis.call('HGET', wf_key(workflow), 'content')
if recorded then return recorded == content and 'exists' or 'conflict' end
if redis.call('EXISTS', wf_key(workflow)) == 1 then return corrupt(wf_key(workflow), 'has no content') end
if redis.call('EXISTS', hop_key(hop)) == 1 then return corrupt(hop_key(hop), 'is without its workflow') end
if sent_at and now - sent_at > tonumber(max_age) then return 'expired' end

redis.call('HSET', wf_key(workflow), 'content', content, 'state', 'running', 'hop', hop, 'created_at', int(now),
  'updated_at', int(now))
queue_hop(workflow, hop, queue, envelope, digest)
add_event(workflow, 'type', sent_at and 'adopted' or 'started', 'hop', hop, 'queue', queue)
return 'started'
