-- FORMAT: note that a worker has started, so that older ones begin nothing more.
-- ARGV: prefix
-- Answer: 1, or the error FORMAT if a newer worker has begun

local wrong = misplaced(meta, 'hash')
if wrong then return wrong end
if is_outdated then return outdated() end
raise_format()
return 1
