-- WAITS_OF: read the waits of a hop.
-- ARGV: prefix, hop
-- Answer: {the fields of its waits}; none if it has none or is unknown

local wrong = misplaced(hop_key(ARGV[2]), 'hash')
if wrong then return wrong end
return wait_fields(ARGV[2])
