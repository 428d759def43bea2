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
  local known = redis.call('MGET', size, more)
  local all = tonumber(known[1] or 0)
  if redis.call('SADD', ids, name) == 1 then
    redis.call('ZADD', parts, member, document)
    if all == 0 and of ~= '0' then
      redis.call('SET', size, of)
      if life ~= '0' then redis.call('PEXPIRE', size, life) end
      all = tonumber(of)
    end
    -- They live as long as the newest part, near enough: they are told again when that is a second more.
    if life ~= '0' and redis.call('PTTL', parts) < life - math.min(life / 100, 1000) then
      for _, each in ipairs({ parts, ids, size, more }) do redis.call('PEXPIRE', each, life) end
    end
  end
  local count = redis.call('ZCARD', parts)
  if all == 0 then return count, 0, false end
  all = all + tonumber(known[2] or 0)
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
