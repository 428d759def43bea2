"""How the server stores a record of a task, as Lua for scripts of ours: those of the result backend, and of a broker on
the same server that ends tasks and stores their records in one step."""

from __future__ import annotations

from typing import Final

WORDS: Final = 5
"""Of one record: key, state, attempt, document, milliseconds to live (0: for ever)."""

KEEP: Final = r"""
local ready = { SUCCESS = true, FAILURE = true, REVOKED = true }

-- State and attempt of what stands; nil for a document that cannot be read here, since it is compressed or no JSON.
-- Documents of both systems begin with the state, so most are not read whole.
local function standing(key)
  local head = redis.call('GETRANGE', key, 0, 160)
  if head == '' then return 'PENDING', 0 end
  if string.byte(head) ~= 123 then return nil, 0 end
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
local function set(key, document, life, ...)
  if life == '0' then return redis.call('SET', key, document, ...) end
  return redis.call('SET', key, document, 'PX', life, ...)
end

-- Whether what stands gives way to a record of this attempt. `unreadable` is the answer about what cannot be read.
local function gives_way(key, attempt, unreadable)
  local state, before = standing(key)
  if not state then return unreadable end
  attempt = tonumber(attempt)
  return state ~= 'SUCCESS' and attempt >= before and (attempt > before or not ready[state])
end

-- Store and announce a record, unless one stands that does not give way; whether it was stored.
local function keep(key, attempt, document, life, unreadable)
  local wins = set(key, document, life, 'NX')
  if not wins and gives_way(key, attempt, unreadable) then wins = set(key, document, life) end
  if wins then redis.call('PUBLISH', key, document) end
  return wins
end
"""
