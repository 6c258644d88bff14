-- PARK: set a hop that needs a person aside, and with it the workflow, unless other hops of it go on. Its record does not
-- expire before it is redriven or cancelled. In a branch it gives its place to the next one.
-- ARGV: prefix, hop, owner, fence, failure (JSON), step id ('' for none), error class, where ('' for unknown), then to
--       keep its dead letter: letter, field, value, ...
-- Answer: 1 recorded, now or by an earlier call of this claim | {hop, queue, envelope, digest} to be sent, or {}, for a hop
--         in a branch that is set aside now | 0 overtaken, nothing changed | -1 the hop is unknown

local _, hop, owner, fence, failure, step, error_class, where, letter = unpack(ARGV, 1, 9)

local wrong = misplaced(hop_key(hop), 'hash', owner_key(owner), 'set', owners, 'zset', host_key(owner), 'set',
  due, 'zset', parked, 'zset', letters, 'zset', kept_letters, 'zset', letter_key(letter or ''), 'hash', meta, 'hash',
  deadlines, 'zset')
if wrong then return wrong end
local workflow, answer, _, written = may_close(hop, owner, fence, 'parked')
if not workflow then return answer end
wrong = misplaced(wf_key(workflow), 'hash', events_key(workflow), 'stream')
if wrong then return wrong end
local arrival
if block_of(hop) then
  arrival, wrong = plan_arrival(hop, nil)
  if wrong then return wrong end
end

redis.call('HSET', hop_key(hop), 'state', 'parked', 'failure', failure)
redis.call('HDEL', hop_key(hop), 'token', 'claimed_at', 'exhausted')
take_from(owner, hop)
redis.call('ZREM', due, hop)
redis.call('ZADD', parked, int(now), hop)
if letter then keep_letter(hop, letter, { unpack(ARGV, 10) }) end
if arrival or written then
  redis.call('HSET', wf_key(workflow), 'failure', failure, 'updated_at', int(now))
  if not arrival then
    settle(workflow)
    relist(workflow)
  end
else
  redis.call('ZREM', deadlines, workflow)
  redis.call('HSET', wf_key(workflow), 'state', 'parked', 'failure', failure, 'updated_at', int(now))
  list(workflow, 'p')
end
add_failure(workflow, 'parked', hop, step, error_class, where)
return arrival and arrive(workflow, hop, arrival) or 1
