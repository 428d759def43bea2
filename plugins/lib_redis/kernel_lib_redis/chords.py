"""How the server keeps the parts of chords, as Lua for scripts of ours: those of the result backend, and of a broker on
the same server that brings parts with the ends of their members.

All keys begin with that of the group: ``.j`` has the parts by their index, ``.d`` which they are, ``.s`` how many there
will be and ``.t`` how many more, ``.c`` who publishes the body. Celery writes a token there that expires, and ``done``
when the body is published; a member of ours writes its index, so that it may complete the chord again.
"""

from __future__ import annotations

from typing import Final

WORDS: Final = 7
"""Of one part: key of the member's record, key of the group, size (0: whoever made it wrote it), index, id of the task,
document, milliseconds to live (0: for ever)."""

BRING: Final = r"""
-- Add a part, by six words from that of the group's key on; how many there are and will be, and whether it is for this
-- member to publish the body.
local function bring(key, of, member, id, document, life)
  local parts, ids, size, more, claim = key .. '.j', key .. '.d', key .. '.s', key .. '.t', key .. '.c'
  local by = redis.call('GET', claim)
  if by == 'done' then return 0, 0, false end
  local name = id .. ':' .. member
  if redis.call('SADD', ids, name) == 1 then
    redis.call('ZADD', parts, member, document)
    if of ~= '0' then redis.call('SET', size, of) end
    if life ~= '0' then
      for _, each in ipairs({ parts, ids, size, more }) do redis.call('PEXPIRE', each, life) end
    end
  end
  local count, all = redis.call('ZCARD', parts), tonumber(redis.call('GET', size) or 0)
  if all == 0 then return count, 0, false end
  all = all + tonumber(redis.call('GET', more) or 0)
  if count < all then return count, all, false end
  local mine = 'kernel:' .. name
  if not by then
    redis.call('SET', claim, mine)
    if life ~= '0' then redis.call('PEXPIRE', claim, life) end
    by = mine
  end
  return count, all, by == mine
end
"""

FORGET: Final = r"""
-- Delete the parts, if there are any, and remember that there were some.
local function forget(key, life)
  if redis.call('UNLINK', key .. '.j') == 0 then return end
  redis.call('UNLINK', key .. '.d', key .. '.s', key .. '.t')
  if life == '0' then
    redis.call('SET', key .. '.c', 'done')
  else
    redis.call('SET', key .. '.c', 'done', 'PX', life)
  end
end
"""
