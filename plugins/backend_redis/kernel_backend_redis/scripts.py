"""What the server does in one step, as Lua."""

from __future__ import annotations

from typing import Final

from kernel_lib_redis import Script

# ARGV: milliseconds to live (0: for ever); then of each record its key, state, attempt and document.
# Answers for each 0 when it was stored, or the document that stands: also one that cannot be read here, since it is
# compressed or no JSON, and may have to give way (see SWAP).
STORE: Final = Script(
    r"""
local ready = { SUCCESS = true, FAILURE = true, REVOKED = true }

-- State and attempt of what stands. Documents of both systems begin with the state, so most are not read whole.
local function standing(key)
  local head = redis.call('GETRANGE', key, 0, 160)
  if string.byte(head) ~= 123 then return '\0', 0 end
  local state = string.match(head, '^{"status": "([^"\\]*)", ')
  if state then
    return state, tonumber(string.match(head, '^{"status": "[^"\\]*", "kernel_attempt": (%d+)') or 0)
  end
  local ok, document = pcall(cjson.decode, redis.call('GET', key))
  if ok and type(document) == 'table' and type(document.status) == 'string' then
    return document.status, tonumber(document.kernel_attempt) or 0
  end
  return 'PENDING', 0
end

-- With "NX" it is refused where something stands.
local function set(key, document, ...)
  if ARGV[1] == '0' then return redis.call('SET', key, document, ...) end
  return redis.call('SET', key, document, 'PX', ARGV[1], ...)
end

local out = {}
for i = 2, #ARGV, 4 do
  local key, document = ARGV[i], ARGV[i + 3]
  local wins = set(key, document, 'NX')
  if not wins then
    local attempt, state, before = tonumber(ARGV[i + 2]), standing(key)
    wins = state ~= '\0' and state ~= 'SUCCESS' and attempt >= before and (attempt > before or not ready[state])
    if wins then set(key, document) end
  end
  if wins then
    redis.call('PUBLISH', key, document)
    out[#out + 1] = 0
  else
    out[#out + 1] = redis.call('GET', key)
  end
end
return out
"""
)

# ARGV: key, digest of the document that may be replaced, document, milliseconds to live (0: for ever).
# Answers 0 when it was stored, or the document that stands.
SWAP: Final = Script(
    r"""
local standing = redis.call('GET', ARGV[1])
if standing and redis.sha1hex(standing) ~= ARGV[2] then return standing end
if ARGV[4] == '0' then
  redis.call('SET', ARGV[1], ARGV[3])
else
  redis.call('SET', ARGV[1], ARGV[3], 'PX', ARGV[4])
end
redis.call('PUBLISH', ARGV[1], ARGV[3])
return 0
"""
)

# ARGV: key of the group, size (0: whoever made it wrote it), member, id of its task, part, milliseconds to live (0: for
# ever). Answers how many there are and will be; behind that, when this member completed it, all parts in order.
PART: Final = Script(
    r"""
local key, member, life = ARGV[1], ARGV[3], ARGV[6]
local parts, ids, size, more, claim = key .. '.j', key .. '.d', key .. '.s', key .. '.t', key .. '.c'
local by = redis.call('GET', claim)
if by == 'done' then return { 0, 0 } end
local name = ARGV[4] .. ':' .. member
if redis.call('SADD', ids, name) == 1 then
  redis.call('ZADD', parts, member, ARGV[5])
  if ARGV[2] ~= '0' then redis.call('SET', size, ARGV[2]) end
  if life ~= '0' then
    for _, each in ipairs({ parts, ids, size, more }) do redis.call('PEXPIRE', each, life) end
  end
end
local count, all = redis.call('ZCARD', parts), tonumber(redis.call('GET', size) or 0)
if all == 0 then return { count, 0 } end
all = all + tonumber(redis.call('GET', more) or 0)
if count < all then return { count, all } end
local mine = 'kernel:' .. name
if not by then
  redis.call('SET', claim, mine)
  if life ~= '0' then redis.call('PEXPIRE', claim, life) end
  by = mine
end
if by ~= mine then return { count, all } end
local out = redis.call('ZRANGE', parts, 0, -1)
table.insert(out, 1, all)
table.insert(out, 1, count)
return out
"""
)

# ARGV: key of the group, size, the member that there is to be besides, milliseconds to live (0: for ever).
GROW: Final = Script(
    r"""
local key, life = ARGV[1], ARGV[4]
local ids, size, more = key .. '.d', key .. '.s', key .. '.t'
if redis.call('GET', key .. '.c') == 'done' then return 0 end
if redis.call('SADD', ids, 'more:' .. ARGV[3]) == 1 then redis.call('INCR', more) end
redis.call('SET', size, ARGV[2])
if life ~= '0' then
  for _, each in ipairs({ ids, size, more }) do redis.call('PEXPIRE', each, life) end
end
return 0
"""
)

# ARGV: key of the group, milliseconds to live (0: for ever).
FORGET: Final = Script(
    r"""
local key = ARGV[1]
if redis.call('UNLINK', key .. '.j') == 1 then
  redis.call('UNLINK', key .. '.d', key .. '.s', key .. '.t')
  if ARGV[2] == '0' then
    redis.call('SET', key .. '.c', 'done')
  else
    redis.call('SET', key .. '.c', 'done', 'PX', ARGV[2])
  end
end
return 0
"""
)
