-- EVENTS: what happened to a workflow and what its agents streamed, each after a place, as of one moment.
-- ARGV: prefix, workflow, id of the last event read, id of the last entry of the stream read ('0-0' for none), limit
-- Answer: {events}, {entries of the stream}, as XRANGE gives them

local _, workflow, event, streamed, limit = unpack(ARGV)

local wrong = misplaced(events_key(workflow), 'stream', stream_key(workflow), 'stream')
if wrong then return wrong end
return {
  redis.call('XRANGE', events_key(workflow), '(' .. event, '+', 'COUNT', limit),
  redis.call('XRANGE', stream_key(workflow), '(' .. streamed, '+', 'COUNT', limit),
}
