-- LOOK_OVER: see to the list of workflows, once for each pass of SWEEP, when what that returned is sent. An older version may
-- have changed a record, or the server may have lost it. So whatever is wrong is put right, even if nobody reads the list.
-- ARGV: prefix
-- Answer: {1 (there is more to remove, so that another call should follow) or 0, 1 (workflows of older versions are still to
--         be listed) or 0, workflow, envelope, ... as RELIST answers}

local looked_over, all_listed = unpack(redis.pcall('HMGET', meta, 'looked_over', 'listed'))

-- Those by id, and those of waits, after what was looked at last.
local from = looked_over and looked_over ~= '' and '(' .. looked_over or '[i'
local texts = redis.pcall('ZRANGEBYLEX', index, from, '(o', 'LIMIT', 0, LOOKED_OVER)
-- First of all: if one of them stops this script, the next call looks at others.
if #texts > 0 or from ~= '[i' then
  redis.pcall('HSET', meta, 'looked_over', #texts == LOOKED_OVER and texts[#texts] or '')
end
local unsure, bytes = {}, 0
for _, text in ipairs(texts) do
  local listed = listing_in(text)
  local behind = text:match('^n[^%z]*%z(.*)$')
  local token = behind and behind:sub(AGE + 1)
  if listed and redis.call('EXISTS', wf_key(listed.workflow)) == 0 then
    unlist(listed)
  elseif listed then
    local now_listed, hop, is_unsure = relist(listed.workflow)
    leave_with(now_listed)
    if bytes < MOST_BYTES then bytes = bytes + add_unsure(unsure, now_listed, hop, is_unsure) end
  elseif token then
    local is_open = redis.pcall('HGET', hop_key(token:match('^[^~]*')), ':state:' .. token)
    if is_open ~= 'open' then redis.pcall('ZREM', index, text) end
  end
end

redis.pcall('ZREMRANGEBYSCORE', served_key, '-inf', int(now - DAY * DAYS_SERVED))
local is_cut = drop_expired(EXPIRED_LISTED) == EXPIRED_LISTED
return { is_cut and 1 or 0, all_listed ~= int(FORMAT) and 1 or 0, unpack(unsure) }
