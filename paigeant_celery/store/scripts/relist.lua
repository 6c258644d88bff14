-- RELIST: list workflows that older versions recorded, as their records say.
-- ARGV: prefix, then workflow, activity, id of its step for each ('' each if they are unknown)
-- Answer: {how many were done before the answer grew too large, workflow, envelope, ... of those that are listed now without
--         an activity}

local unknown, bytes = { (#ARGV - 1) / 3 }, 0
for i = 2, #ARGV, 3 do
  local workflow, activity, step = unpack(ARGV, i, i + 2)
  if activity == '' then activity, step = nil, nil end
  local text = relist(workflow, activity, step) or nil
  leave_with(text)
  local listed = listing_in(text)
  if listed and listed.activity == '' then
    local hop, envelope = unpack(redis.call('HMGET', wf_key(workflow), 'hop', 'envelope'))
    envelope = envelope or redis.pcall('HMGET', hop_key(hop), 'envelope')[1]
    if envelope then
      unknown[#unknown + 1] = workflow
      unknown[#unknown + 1] = envelope
      bytes = bytes + #envelope
      if bytes >= MOST_BYTES then
        unknown[1] = (i + 1) / 3
        break
      end
    end
  end
end
return unknown
