"""What a chord's one hash goes through, in Lua: each script may be repeated, and the body is sent once.

The fields: `size`, how many parts the header has; `extra`, how many tasks have added (and `x:ID` for each); `count`,
how many have come; `p:INDEX:ID`, the part of a task: the order of its coming, a colon, and the encoded result; `state`,
`by`, `with` (the part whose coming made it so) and `since`:

    (none)     parts come
    claimed    the last one has come; the worker `by` reads them. It is replaced when it is silent for too long, or when
               the part it came with comes again: brokers deliver anew what a dead worker had. Who was replaced sends
               nothing
    sending    `by` sends the body, or tells of the failure. Nobody replaces it: nobody knows whether it was sent
    over       it was; what is left refuses parts that come twice
"""

from __future__ import annotations

# A chord begins: what is left of another one with the same id, which is over or in doubt, is forgotten. ARGV: after how
# many seconds it is in doubt whether a body was sent.
BEGIN = """
local told = redis.call('HMGET', KEYS[1], 'state', 'since')
local is_void = told[2] and tonumber(redis.call('TIME')[1]) - tonumber(told[2]) > tonumber(ARGV[1])
if told[1] == 'over' or (told[1] == 'sending' and is_void) then
    redis.call('DEL', KEYS[1])
end
return 1
"""

# ARGV: the size; the seconds to live, 0 for ever.
SIZE = """
if redis.call('HGET', KEYS[1], 'state') == 'over' then
    redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'size', ARGV[1])
if tonumber(ARGV[2]) > 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""

# ARGV: the id of a result that is added to the header; the seconds to live.
EXTRA = """
if redis.call('HSETNX', KEYS[1], 'x:' .. ARGV[1], 1) == 1 then
    redis.call('HINCRBY', KEYS[1], 'extra', 1)
end
if tonumber(ARGV[2]) > 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""

# What PART says: parts are missing, or somebody else has the chord; it is the caller's; it was sent by somebody who is
# silent now, or was about to be.
WAIT, READY, DOUBT = 0, 1, 2

# ARGV: the field of the part; the encoded result; the caller's token; the seconds to live; after how many seconds a
# claim is void. A part that is there already, with perhaps another result, is not counted again.
PART = """
local key, now = KEYS[1], tonumber(redis.call('TIME')[1])
local state = redis.call('HGET', key, 'state')
if state == 'over' then
    return 0
end
if redis.call('HEXISTS', key, ARGV[1]) == 0 then
    local count = redis.call('HINCRBY', key, 'count', 1)
    redis.call('HSET', key, ARGV[1], count .. ':' .. ARGV[2])
end
if tonumber(ARGV[4]) > 0 then
    redis.call('EXPIRE', key, ARGV[4])
end
local told = redis.call('HMGET', key, 'size', 'extra', 'count', 'since', 'with')
if not told[1] or tonumber(told[3]) < tonumber(told[1]) + tonumber(told[2] or 0) then
    return 0
end
local is_void = told[4] and now - tonumber(told[4]) > tonumber(ARGV[5])
local is_silent = is_void or told[5] == ARGV[1]
if not state or (state == 'claimed' and is_silent) then
    redis.call('HSET', key, 'state', 'claimed', 'by', ARGV[3], 'since', now, 'with', ARGV[1])
    return 1
end
if state == 'sending' and is_silent then
    return 2
end
return 0
"""

# ARGV: the token. Whether the body is the caller's to send.
SEND = """
if redis.call('HGET', KEYS[1], 'by') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'state', 'sending', 'since', redis.call('TIME')[1])
return 1
"""

# ARGV: the token; the seconds for which parts that come twice are refused.
OVER = """
local told = redis.call('HMGET', KEYS[1], 'state', 'by')
if told[1] ~= 'sending' or told[2] ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', 'over')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
