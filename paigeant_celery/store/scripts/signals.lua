-- Put in front of the scripts that give or take signals, after waits.lua. The signals of a workflow are fields of the hash
-- of its blobs: those of each name that are kept for waits to come, in their order, and the ids of the latest ones.

local OF_SIGNAL = { 'call', 'by', 'at', 'text' }

local function signal_fields(name, number)
  local fields = {}
  for i, of in ipairs(OF_SIGNAL) do fields[i] = 'signals:' .. of .. ':' .. number .. ':' .. name end
  return fields
end

local function kept_signals(workflow) return tonumber(redis.call('HGET', blob_key(workflow), 'signals:count')) or 0 end

local function id_field(call) return 'signals:id:' .. call end

-- Remember the id of a signal, and of so many as may be.
local function remember_signal(workflow, call)
  local number = redis.call('HINCRBY', blob_key(workflow), 'signals:calls', 1)
  redis.call('HSET', blob_key(workflow), id_field(call), number, 'signals:call:' .. number, call)
  local oldest = redis.call('HGET', blob_key(workflow), 'signals:call:' .. int(number - MAX_CALLS))
  if oldest then
    redis.call('HDEL', blob_key(workflow), id_field(oldest), 'signals:call:' .. int(number - MAX_CALLS))
  end
end

local function write_signal(workflow, name, number, call, by, at, text)
  local fields = signal_fields(name, int(number))
  redis.call('HSET', blob_key(workflow), fields[1], call, fields[2], by, fields[3], at, fields[4], text)
  redis.call('HINCRBY', blob_key(workflow), 'signals:count', 1)
end

-- Keep a signal behind the others of its name.
local function keep_signal(workflow, name, call, by, text)
  local number = redis.call('HINCRBY', blob_key(workflow), 'signals:kept:' .. name, 1)
  write_signal(workflow, name, number, call, by, int(now), text)
end

-- The oldest kept signal of a name, which is kept no longer; nil if there is none.
local function take_signal(workflow, name)
  local of_name = { 'signals:kept:' .. name, 'signals:taken:' .. name }
  local kept, taken = unpack(redis.call('HMGET', blob_key(workflow), unpack(of_name)))
  kept, taken = tonumber(kept or 0), tonumber(taken or 0)
  if taken >= kept then return nil end
  local number = redis.call('HINCRBY', blob_key(workflow), of_name[2], 1)
  local fields, signal = signal_fields(name, number), {}
  for i, value in ipairs(redis.call('HMGET', blob_key(workflow), unpack(fields))) do signal[OF_SIGNAL[i]] = value end
  redis.call('HDEL', blob_key(workflow), unpack(fields))
  redis.call('HINCRBY', blob_key(workflow), 'signals:count', -1)
  if number == kept then redis.call('HDEL', blob_key(workflow), unpack(of_name)) end
  return signal
end

-- Keep the signals that a hop's waits have taken once more, before the others, for waits that are recorded anew.
local function return_signals(workflow, hop)
  local wait, waits = {}, {}
  local fields = wait_fields(hop)
  for i = 1, #fields, 2 do wait[fields[i]] = fields[i + 1] end
  for name, token in pairs(wait) do
    if name:match('^:id:') and wait[':kind:' .. token] == 'signal' and wait[':state:' .. token] == 'settled' then
      waits[#waits + 1] = token
    end
  end
  table.sort(waits, function(one, other) return tonumber(wait[':number:' .. one]) > tonumber(wait[':number:' .. other]) end)
  for _, token in ipairs(waits) do
    local name, behind = wait[':name:' .. token], ':' .. token .. ':1'
    local number = redis.call('HINCRBY', blob_key(workflow), 'signals:taken:' .. name, -1) + 1
    write_signal(workflow, name, number, wait[':call' .. behind], wait[':by' .. behind], wait[':at' .. behind],
      wait[':text' .. behind])
  end
end
