"""What the server does in one step, as Lua.

A script that fails half-way keeps what it did, so everything that could fail comes before the first write, and a
message that was popped is stored again in the very next command. Messages are moved as bytes: a script that decoded
and encoded them would turn ``[]`` into ``{}`` and round numbers.

`ARGV[1]` is the prefix of all keys, `ARGV[2]` the separator between a queue and its step. A *list* is the full key of
one priority step of a queue. Beside each lie, as ``kernel:{<list>}:<what>``:

    held:<consumer>     hash   number of the claim -> message
    marks:<consumer>    hash   number of the claim -> "<starts>,<1 when its start was recorded>", of seen messages
    seen                hash   digest of a waiting message that was claimed before -> starts
    delayed             zset   head of 25 characters + message, by milliseconds
    n                   a counter that orders what is delayed
    dead, dead:meta     hash   letter -> message; letter -> "<starts>\\n<milliseconds>\\n<JSON>"
    dead:order          zset   letters in the order in which they came
    idle                set    consumers that wait for the queue (beside its first list)
    idle:first          set    the same, of those that see by themselves what is pushed into its first list
    aside:<consumer>    list   what was moved there while the consumer waited, until its next claim

``kernel:epoch`` is made by the first lease and never changed: where it is another, the server has forgotten everything.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = r"""
local P, SEP = ARGV[1], ARGV[2]

local function own(list, what) return P .. 'kernel:{' .. list .. '}:' .. what end

local function queue_of(list)
  local at = string.find(list, SEP, 1, true)
  return at and string.sub(list, 1, at - 1) or list
end
"""

CLOCK: Final = r"""
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

COMMON: Final = (
    NAMES
    + CLOCK
    + r"""
local CONSUMERS = P .. 'kernel:consumers'

local function consumer_key(cid) return P .. 'kernel:consumer:' .. cid end

-- Wake a few of those who wait: one may be dead, or have found something else to do. Those who stand at the first list
-- see by themselves what is pushed there.
local function notify(list, count, pushed)
  for _, set in ipairs(pushed and list == queue_of(list) and { 'idle' } or { 'idle', 'idle:first' }) do
    for _, cid in ipairs(redis.call('SPOP', own(queue_of(list), set), math.min(count + 2, 32))) do
      redis.call('PUBLISH', P .. 'kernel:wake:' .. cid, '1')
    end
  end
end

-- Put a message back in front, remembering that it was claimed before.
local function return_to(list, raw, starts)
  redis.call('RPUSH', list, raw)
  redis.call('HSET', own(list, 'seen'), redis.sha1hex(raw), starts)
end

local function defer(list, raw, due, starts, seen)
  local number = redis.call('INCR', own(list, 'n'))
  redis.call('ZADD', own(list, 'delayed'), due, string.format('%016x%08x%d', number, starts, seen) .. raw)
end

local function starts_of(mark)
  local starts, begun = string.match(mark or '', '^(%d+),(%d)$')
  return tonumber(starts or 0), tonumber(begun or 0)
end

-- Put back what was moved aside for a consumer: nobody has seen it.
local function put_back(list, cid)
  local aside = own(list, 'aside:' .. cid)
  -- A full server moves nothing, but takes what comes after a deletion.
  local raw = redis.call('LPOP', aside)
  while raw do
    redis.call('RPUSH', list, raw)
    raw = redis.call('LPOP', aside)
  end
end

-- Give back what a consumer holds of a list: all, or what it claimed above a number up to another. With `keep`,
-- starts that were recorded and never ended count.
local function give_back(list, cid, keep, above, last)
  local held, marks = own(list, 'held:' .. cid), own(list, 'marks:' .. cid)
  local found = redis.call('HGETALL', held)
  if #found == 0 then return 0 end
  local mark, raws, numbers = {}, {}, {}
  local pairs_of_marks = redis.call('HGETALL', marks)
  for i = 1, #pairs_of_marks, 2 do mark[pairs_of_marks[i]] = pairs_of_marks[i + 1] end
  for i = 1, #found, 2 do
    local number = tonumber(found[i])
    if not above or (number > above and number <= last) then
      numbers[#numbers + 1] = number
      raws[number] = { found[i], found[i + 1] }
    end
  end
  table.sort(numbers, function(a, b) return a > b end)
  for _, number in ipairs(numbers) do
    local field, raw = raws[number][1], raws[number][2]
    local starts, begun = starts_of(mark[field])
    return_to(list, raw, starts + (keep and begun or 0))
    redis.call('HDEL', held, field)
    redis.call('HDEL', marks, field)
  end
  if #numbers > 0 then notify(list, #numbers) end
  return #numbers
end

-- End a lease, and with it all claims of its consumer.
local function release(cid, keep)
  local key = consumer_key(cid)
  for _, list in ipairs(redis.call('SMEMBERS', key .. ':lists')) do
    give_back(list, cid, keep, nil)
    put_back(list, cid)
    redis.call('SREM', own(queue_of(list), 'idle'), cid)
    redis.call('SREM', own(queue_of(list), 'idle:first'), cid)
  end
  redis.call('DEL', key, key .. ':lists')
  redis.call('ZREM', CONSUMERS, cid)
end

-- What this server has called itself since it last began with nothing.
local function epoch(cid)
  redis.call('SET', P .. 'kernel:epoch', cid .. ':' .. clock[1] .. '.' .. clock[2], 'NX')
  return redis.call('GET', P .. 'kernel:epoch')
end

-- Answers 2 when the server has forgotten everything since it called itself `known`, and 1 otherwise.
local function register(cid, owner, lease, floor, known, first)
  local key = consumer_key(cid)
  redis.call('HSET', key, 'owner', owner, 'floor', floor)
  for i = first, #ARGV do
    redis.call('SADD', key .. ':lists', ARGV[i])
    redis.call('SADD', P .. 'kernel:queues', queue_of(ARGV[i]))
  end
  redis.call('ZADD', CONSUMERS, NOW + lease, cid)
  return epoch(cid) ~= known and known ~= '' and 2 or 1
end
"""
)

DESPITE: Final = """
-- A server that is full refuses what takes memory, until a script has written: what is here must be settled, returned
-- and claimed all the same, for only that makes room.
redis.call('DEL', P .. 'kernel:none')
"""
