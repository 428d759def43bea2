"""What the server does in one step, as Lua."""

from __future__ import annotations

from typing import Final

from kernel_lib_redis import Script, chords, records

# ARGV: of each record what `records.WORDS` says.
# Answers for each 0 when it was stored, or the document that stands: also one that cannot be read here, since it is
# compressed or no JSON, and may have to give way (see SWAP).
STORE: Final = Script(
    records.KEEP
    + r"""
local out = {}
for i = 1, #ARGV, 5 do
  if keep(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], false) then
    out[#out + 1] = 0
  else
    out[#out + 1] = redis.call('GET', ARGV[i])
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

# ARGV: what `chords.WORDS` says, from the key of the group on. Answers how many parts there are and will be; behind
# that, when this member completed the chord, all parts in order.
PART: Final = Script(
    chords.BRING
    + r"""
local count, all, complete = bring(unpack(ARGV))
if not complete then return { count, all } end
local out = redis.call('ZRANGE', ARGV[1] .. '.j', 0, -1)
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

# ARGV: key of the group, milliseconds to live (0: for ever), number of the task, its copy, 1 where the parts are of no
# more use. Answers whether it is the first copy.
BEGIN: Final = Script(
    chords.FORGET
    + r"""
local key, life = ARGV[1], ARGV[2]
local copies = key .. '.b'
redis.call('HSETNX', copies, ARGV[3], ARGV[4])
if redis.call('HGET', copies, ARGV[3]) ~= ARGV[4] then return 0 end
if life ~= '0' then redis.call('PEXPIRE', copies, life) end
if ARGV[5] == '1' then forget(key, life) end
return 1
"""
)
