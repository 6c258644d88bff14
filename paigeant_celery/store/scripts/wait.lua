-- WAIT: record something that a hop waits for, before anybody is asked, or answer what is recorded of it.
-- ARGV: prefix, hop, owner, fence, wait id, token, kind, name, timeout (from now; '' for none), about (JSON), token of the
--       recorded one in whose place it comes ('' for none), then its parts
-- Answer: {the fields of the wait} | 'too_many' (of the hop's waits are open) | 0 overtaken or closed, nothing changed |
--         -1 the hop is unknown

local _, hop, owner, fence, wait_id, token, kind, name, timeout, about, instead_of = unpack(ARGV, 1, 11)

local wrong = misplaced(hop_key(hop), 'hash', asked, 'zset')
if wrong then return wrong end
local workflow, answer, open = may_close(hop, owner, fence)
if not workflow then return answer end
wrong = misplaced(events_key(workflow), 'stream', blob_key(workflow), 'hash')
if wrong then return wrong end

local found = redis.call('HGET', hop_key(hop), ':id:' .. wait_id)
if found and found ~= instead_of then return fields_of(hop, found) end
local others = {}
for _, each in ipairs(tokens_in(open)) do
  if each ~= found then others[#others + 1] = each end
end
if #others >= MAX_WAITS then return 'too_many' end

local age = age_of(redis.pcall('HGET', wf_key(workflow), 'created_at')) or age_of(0)
-- Writes that need memory come first.
local number = redis.call('HINCRBY', hop_key(hop), ':waits', 1)
if found then
  if redis.call('HGET', hop_key(hop), ':state:' .. found) == 'settled' then
    redis.call('HINCRBY', hop_key(hop), ':settled', -1)
  end
  redis.call('ZREM', asked, found)
  stop_awaiting(workflow, hop, { found })
  drop_fields(hop, names_of(hop, found))
end
others[#others + 1] = token
redis.call('HSET', hop_key(hop), ':open', table.concat(others, ' '), ':id:' .. wait_id, token,
  ':wait_id:' .. token, wait_id, ':kind:' .. token, kind, ':name:' .. token, name, ':since:' .. token, int(now),
  ':until:' .. token, timeout ~= '' and int(now + timeout) or '', ':state:' .. token, 'open', ':about:' .. token, about,
  ':number:' .. token, number, ':parts:' .. token, #ARGV - 11, ':age', age)
for i = 12, #ARGV do redis.call('HSET', hop_key(hop), ':part:' .. token .. ':' .. (i - 11), ARGV[i]) end
redis.call('ZADD', asked, int(now), token)
list_wait(name, age, token)
add_event(workflow, 'type', 'asked', 'hop', hop, 'wait', name)

local early = kind == 'signal' and take_signal(workflow, name)
if early then
  note_answer(hop, token, 1, early.call, early.by, early.at, early.text)
  end_waits(workflow, hop, { token }, 'settled')
  add_event(workflow, 'type', 'answered', 'hop', hop, 'wait', name, 'by', early.by)
elseif kind == 'signal' and block_of(hop) then
  await_signal(workflow, name, token)
end
drop_gone()
return fields_of(hop, token)
