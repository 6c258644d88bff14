-- PUBLISH: add events of the agent that runs in a hop to the stream of its workflow. The oldest are dropped, which
-- readers notice: the second number of an entry's id counts all entries that ever came.
-- ARGV: prefix, hop, owner, fence, token (of this call, which may be repeated), then for each event the number of its
--       parts, and field, value, ...
-- Answer: 1 added, now or by an earlier call with this token | 0 overtaken, closed or cancelled, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence, token = unpack(ARGV, 1, 5)

local wrong = misplaced(hop_key(hop), 'hash')
if wrong then return wrong end
local workflow, answer = may_close(hop, owner, fence)
if not workflow then return answer end
wrong = misplaced(events_key(workflow), 'stream', stream_key(workflow), 'stream')
if wrong then return wrong end
if redis.call('HGET', hop_key(hop), 'published_by') == token then return 1 end

local function last_id(key)
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local at, number = last_id(stream_key(workflow)):match('^(%d+)-(%d+)$')
at, number = math.max(now, tonumber(at)), tonumber(number)
local behind = last_id(events_key(workflow))
local i = 6
while i <= #ARGV do
  local parts = tonumber(ARGV[i])
  number = number + 1
  redis.call('XADD', stream_key(workflow), 'MAXLEN', '~', MAX_STREAMED, int(at) .. '-' .. int(number),
    'behind', behind, unpack(ARGV, i + 1, i + parts))
  i = i + 1 + parts
end
redis.call('HSET', hop_key(hop), 'published_by', token)
return 1
