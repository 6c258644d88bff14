-- READ: a workflow together with its current hop, as of one moment.
-- ARGV: prefix, workflow
-- Answer: nil if it is unknown, otherwise {state, content, hop, created_at, updated_at, failure, envelope,
--         the hop's queue, state, attempt, when it is tried again (nil if it does not wait), when it goes on without an
--         answer, or would if it had not been cancelled ('' or nil if it does not), {the fields of its waits},
--         the workflow, the step and its place that it is a fork of (nil if it is none)}

local workflow = ARGV[2]

local wrong = misplaced(wf_key(workflow), 'hash')
if wrong then return wrong end
if redis.call('EXISTS', wf_key(workflow)) == 0 then return nil end
local record = redis.call('HMGET', wf_key(workflow), 'state', 'content', 'hop', 'created_at', 'updated_at', 'failure',
  'envelope', 'origin')
if not record[3] then return corrupt(wf_key(workflow), 'names no hop') end
wrong = misplaced(hop_key(record[3]), 'hash')
if wrong then return wrong end
local hop = redis.call('HMGET', hop_key(record[3]), 'queue', 'state', 'attempt', 'envelope', 'failure',
  'given_back', 'wake_at', ':waits', 'fence', 'suspended_by', 'block:written')
-- A branch that was set aside leaves its failure there. It says nothing once the workflow goes on, or has completed.
local retry_at, failure = false, (record[1] == 'parked' or record[1] == 'failed') and record[6]
if hop[2] == 'parked' and hop[11] then
  failure = hop[5] or failure -- a branch of it may have been set aside, or redriven, since
elseif hop[2] == 'waiting' then
  wrong = misplaced(due, 'zset')
  if wrong then return wrong end
  local at = redis.call('ZSCORE', due, record[3])
  retry_at, failure = at and int(at + AHEAD), hop[5]
elseif hop[2] == 'queued' and hop[6] then
  failure = hop[5] -- nobody who can read it has it yet
end
-- CANCEL leaves what SUSPEND wrote; a hop that was claimed after it has a higher fence.
local slept = hop[2] == 'cancelled' and hop[10] and hop[10]:match('^%d+') == hop[9]
return { record[1], record[2], record[3], record[4], record[5], failure, record[7] or hop[4], hop[1], hop[2], hop[3],
  retry_at, (hop[2] == 'suspended' or slept) and hop[7], hop[8] and wait_fields(record[3]) or {}, record[8] }
