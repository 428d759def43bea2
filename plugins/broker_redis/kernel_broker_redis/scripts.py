"""What the server does in one step for a consumer: claims, leases, and ends. See `lua` for where everything lies."""

from __future__ import annotations

from typing import Final

from kernel_lib_redis import Script, chords, records

from kernel_broker_redis.lua import CLOCK, COMMON, DESPITE, NAMES

_MOMENT: Final = r"""
-- An ISO 8601 moment with its offset in Unix milliseconds; 0 for anything else, which is for the worker to judge.
local function moment(text)
  if type(text) ~= 'string' then return 0 end
  local y, mo, d, h, mi, s, zone =
    string.match(text, '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d%.?%d*)(.*)$')
  if not y then return 0 end
  local offset = 0
  if zone ~= 'Z' then
    local sign, zh, zm = string.match(zone, '^([+-])(%d%d):?(%d%d)$')
    if not sign then return 0 end
    offset = (tonumber(zh) * 60 + tonumber(zm)) * 60
    if sign == '-' then offset = -offset end
  end
  y, mo, d = tonumber(y), tonumber(mo), tonumber(d)
  if mo <= 2 then y = y - 1 end
  local era = math.floor(y / 400)
  local year = y - era * 400
  local day = math.floor((153 * (mo + (mo > 2 and -3 or 9)) + 2) / 5) + d - 1
  local days = era * 146097 + year * 365 + math.floor(year / 4) - math.floor(year / 100) + day - 719468
  return math.ceil((((days * 24 + tonumber(h)) * 60 + tonumber(mi)) * 60 + tonumber(s) - offset) * 1000)
end

-- When a waiting message is due. Only one that has a text under a key "eta" is decoded, and only to be read.
local function due_of(raw)
  local at = string.find(raw, '"eta"', 1, true)
  while at do
    if string.find(raw, '^%s*:%s*"', at + 5) then
      local ok, document = pcall(cjson.decode, raw)
      if not ok or type(document) ~= 'table' or type(document.headers) ~= 'table' then return 0 end
      return moment(document.headers.eta)
    end
    at = string.find(raw, '"eta"', at + 5, true)
  end
  return 0
end
"""

# ARGV: prefix, sep, consumer, owner, lease (ms), number of the last claim, limit, bytes, whether the consumer is among
# the idle, steps of a queue, -1 or the number above which claims of ours were never heard of, the last number of
# these, the list at which we wait by ourselves, the epoch that we know; then lists, queue by queue.
# Answers: now, when to look again (or -1), 1 if the lease had run out and 2 if all was forgotten, whether nothing is
# left (the consumer is then among the idle, and told of what comes), whether the list at which we wait may be waited
# at; then for each message the index of its list, its starts (-1: never seen), and itself.
CLAIM: Final = Script(
    COMMON
    + DESPITE
    + _MOMENT
    + r"""
local cid, lease, base = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local limit, left = tonumber(ARGV[7]), tonumber(ARGV[8])
local steps, doubt, door, FIRST = tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[13], 15
local lost = 0
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', CONSUMERS, '-inf', NOW, 'LIMIT', 0, 64)) do
  release(dead, true)
  if dead == cid then lost = 1 end
end
local floor = redis.call('HGET', consumer_key(cid), 'floor')
if floor and base < tonumber(floor) then return { NOW, -1, 0, 0, 0 } end
put_back(door, cid)
if not floor then
  lost = math.max(1, register(cid, ARGV[4], lease, base, lost == 1 and '' or ARGV[14], FIRST))
elseif doubt >= 0 then
  for i = FIRST, #ARGV do give_back(ARGV[i], cid, false, doubt, tonumber(ARGV[12])) end
  -- What was sent before and comes late claims nothing.
  redis.call('HSET', consumer_key(cid), 'floor', base)
end

local out, total, moved, full = { 0, 0, 0, 0, 0 }, 0, 0, false
-- By the first list of a queue: how many of its lists have something waiting, and delayed; the first may be too high.
local waiting, delays = {}, {}

local function take(list, index, want, first)
  local got, fields, marks, gone = 0, {}, {}, {}
  -- Few at first: of large messages most would have to be put back.
  local size = math.max(1024, math.ceil(left / 16))
  local function keep(raw, starts)
    base, got, total, left, size = base + 1, got + 1, total + 1, left - #raw, #raw
    fields[#fields + 1], fields[#fields + 2] = base, raw
    if starts >= 0 then marks[#marks + 1], marks[#marks + 2] = base, starts .. ',0' end
    out[#out + 1], out[#out + 2], out[#out + 3] = index, starts, raw
  end
  local function flush()
    for i = 1, #fields, 2000 do
      redis.call('HSET', own(list, 'held:' .. cid), unpack(fields, i, math.min(i + 1999, #fields)))
    end
    for i = 1, #marks, 2000 do
      redis.call('HSET', own(list, 'marks:' .. cid), unpack(marks, i, math.min(i + 1999, #marks)))
    end
    fields, marks = {}, {}
  end
  local delayed, seen = own(list, 'delayed'), own(list, 'seen')
  local ripe = delays[first] > 0 and redis.call('ZRANGEBYSCORE', delayed, '-inf', NOW, 'LIMIT', 0, want) or {}
  for _, member in ipairs(ripe) do
    local raw = string.sub(member, 26)
    if total > 0 and #raw > left then full = true; break end
    gone[#gone + 1] = member
    keep(raw, string.sub(member, 25, 25) == '1' and tonumber(string.sub(member, 17, 24), 16) or -1)
  end
  for i = 1, #gone, 2000 do redis.call('ZREM', delayed, unpack(gone, i, math.min(i + 1999, #gone))) end
  flush()
  local has_seen = nil
  while waiting[first] > 0 and got < want and not full and moved < 1000 do
    local ask = math.min(want - got, 250, math.max(1, math.ceil(left / size)))
    local raws = redis.call('RPOP', list, ask)
    if not raws then break end
    if has_seen == nil then has_seen = redis.call('EXISTS', seen) == 1 end
    for i, raw in ipairs(raws) do
      local starts = -1
      if has_seen then
        local digest = redis.sha1hex(raw)
        local known = redis.call('HGET', seen, digest)
        if known then
          starts = tonumber(known) or 0
          redis.call('HDEL', seen, digest)
        end
      end
      local due = due_of(raw)
      if due > NOW then
        defer(list, raw, due, math.max(starts, 0), starts >= 0 and 1 or 0)
        moved = moved + 1
      elseif total > 0 and #raw > left then
        for j = #raws, i + 1, -1 do redis.call('RPUSH', list, raws[j]) end
        if starts >= 0 then return_to(list, raw, starts) else redis.call('RPUSH', list, raw) end
        full = true
        break
      else
        keep(raw, starts)
      end
    end
    flush()
    if #raws < ask then
      -- Nothing waits: what was remembered of waiting messages that others took is of no use any more.
      if has_seen then redis.call('UNLINK', seen) end
      if not full then waiting[first] = waiting[first] - 1 end
      break
    end
  end
  return got
end

local function take_queue(first, want)
  local got = 0
  for step = 0, steps - 1 do
    if got >= want or full or waiting[first] + delays[first] == 0 then break end
    got = got + take(ARGV[first + step], first + step - FIRST, want - got, first)
  end
  return got
end

local paused = {}
for _, name in ipairs(redis.call('SMEMBERS', P .. 'kernel:paused')) do paused[name] = true end
local busy = {}
for first = FIRST, #ARGV, steps do
  if not paused[ARGV[first]] then
    local lists, later = {}, {}
    for step = 0, steps - 1 do
      local list = ARGV[first + step]
      lists[#lists + 1], later[#later + 1] = list, own(list, 'delayed')
    end
    waiting[first], delays[first] = redis.call('EXISTS', unpack(lists)), redis.call('EXISTS', unpack(later))
    if waiting[first] + delays[first] > 0 then busy[#busy + 1] = first end
  end
end
local again = {}
for i, first in ipairs(busy) do
  local share = math.ceil((limit - total) / (#busy - i + 1))
  if share > 0 and not full and take_queue(first, share) == share then again[#again + 1] = first end
end
for _, first in ipairs(again) do
  if total < limit and not full then take_queue(first, limit - total) end
end

local look, drained = -1, total < limit and not full and moved == 0
if drained then
  local function sooner(found)
    if found and (look < 0 or found < look) then look = found end
  end
  for _, first in ipairs(busy) do
    for step = 0, delays[first] > 0 and steps - 1 or -1 do
      sooner(tonumber(redis.call('ZRANGE', own(ARGV[first + step], 'delayed'), 0, 0, 'WITHSCORES')[2]))
    end
  end
  local leases = redis.call('ZRANGE', CONSUMERS, 0, 1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if leases[i] ~= cid then sooner(tonumber(leases[i + 1])) end
  end
end
local wish = drained and 'SADD' or (ARGV[9] == '1' and 'SREM')
if wish then
  for first = FIRST, #ARGV, steps do
    redis.call(wish, own(ARGV[first], ARGV[first] == door and 'idle:first' or 'idle'), cid)
  end
end
out[1], out[2], out[3], out[4], out[5] = NOW, look, lost, drained and 1 or 0, paused[door] and 0 or 1
return out
"""
)

# ARGV: prefix, sep, consumer; then for each list its key, a count, and so many numbers of claims.
ACK: Final = Script(
    COMMON
    + r"""
local out, i = {}, 4
while ARGV[i] do
  local held, marks = own(ARGV[i], 'held:' .. ARGV[3]), own(ARGV[i], 'marks:' .. ARGV[3])
  local last, marked = i + 1 + tonumber(ARGV[i + 1]), redis.call('EXISTS', marks) == 1
  for j = i + 2, last do
    out[#out + 1] = redis.call('HDEL', held, ARGV[j])
    if marked then redis.call('HDEL', marks, ARGV[j]) end
  end
  i = last + 1
end
return out
"""
)

_SETTLE: Final = r"""
-- Settle one claim by the six words from `i` on: its list, number, what (r: back, d: dead, s: started, a: done with), 1
-- if it is charged, and two words: milliseconds of delay and nothing, or the name of the letter and JSON. Answers 1, or
-- 0 when the claim is not there.
local function settle(i)
  local list, number, what = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local held, marks = own(list, 'held:' .. ARGV[3]), own(list, 'marks:' .. ARGV[3])
  if what == 'a' then
    redis.call('HDEL', marks, number)
    return redis.call('HDEL', held, number)
  end
  if redis.call('HEXISTS', held, number) == 0 then return 0 end
  local starts = starts_of(redis.call('HGET', marks, number))
  if what == 's' then
    redis.call('HSET', marks, number, starts .. ',1')
    return 1
  end
  local raw, queue = redis.call('HGET', held, number), queue_of(list)
  starts = starts + tonumber(ARGV[i + 3])
  if what == 'd' then
    local letter = ARGV[i + 4]
    if redis.call('HEXISTS', own(queue, 'dead'), letter) == 1 then
      letter = letter .. '.' .. redis.call('INCR', own(queue, 'n'))
    end
    redis.call('HSET', own(queue, 'dead'), letter, raw)
    redis.call('HSET', own(queue, 'dead:meta'), letter, starts .. '\n' .. NOW .. '\n' .. ARGV[i + 5])
    redis.call('ZADD', own(queue, 'dead:order'), redis.call('INCR', own(queue, 'n')), letter)
  elseif what == 'r' and tonumber(ARGV[i + 4]) > 0 then
    defer(list, raw, NOW + tonumber(ARGV[i + 4]), starts, 1)
  elseif what == 'r' then
    return_to(list, raw, starts)
  end
  redis.call('HDEL', held, number)
  redis.call('HDEL', marks, number)
  if what == 'r' then notify(list, 1) end
  return 1
end
"""

# ARGV: prefix, sep, consumer; then of each claim the words of `settle`.
END: Final = Script(
    COMMON
    + DESPITE
    + _SETTLE
    + r"""
local out = {}
for i = 4, #ARGV, 6 do out[#out + 1] = settle(i) end
return out
"""
)

# ARGV: prefix, sep, consumer; then of each claim the words of `settle`; how many records, parts of chords and messages
# come with its end; of the chord that is over with it the milliseconds its mark lives and its key, or two empty words;
# the words of the records and of the parts; and of each message its list, when it is due (ms, or nothing), and itself.
# Answers for each 0 when the claim is not there; 1 when it is settled; 2 when it stands, since a chord is complete with
# it, and 3 when it stands since the member had ended before.
FINISH: Final = Script(
    COMMON
    + DESPITE
    + _SETTLE
    + records.KEEP
    + chords.BRING
    + chords.FORGET
    + r"""
local pushed, later = {}, {}

local function publish(first, last)
  for i = first, last, 3 do
    local list = ARGV[i]
    if ARGV[i + 1] == '' then
      redis.call('LPUSH', list, ARGV[i + 2])
    else
      defer(list, ARGV[i + 2], tonumber(ARGV[i + 1]), 0, 0)
      later[list] = true
    end
    pushed[list] = (pushed[list] or 0) + 1
  end
end

-- Whether the record of a member is not the one that counts.
local function stands(first, last, key)
  for i = first, last, 5 do
    if ARGV[i] == key and not gives_way(key, ARGV[i + 2], true) then return true end
  end
  return false
end

local function finish(i, records, parts, messages)
  if redis.call('HEXISTS', own(ARGV[i], 'held:' .. ARGV[3]), ARGV[i + 1]) == 0 then return 0 end
  local life, over = ARGV[i + 9], ARGV[i + 10]
  if over ~= '' and redis.call('GET', over .. '.c') == 'done' then return settle(i) end
  local first, complete = i + 11, false
  local behind = first + 5 * records
  for j = behind, behind + 7 * (parts - 1), 7 do
    if stands(first, behind - 1, ARGV[j]) then return 3 end
  end
  for j = first, behind - 1, 5 do keep(ARGV[j], ARGV[j + 2], ARGV[j + 3], ARGV[j + 4], true) end
  for j = behind, behind + 7 * (parts - 1), 7 do
    local _, _, last = bring(unpack(ARGV, j + 1, j + 6))
    complete = complete or last
  end
  if complete then return 2 end
  if over ~= '' then forget(over, life) end
  behind = behind + 7 * parts
  publish(behind, behind + 3 * messages - 1)
  return settle(i)
end

local out, i = {}, 4
while ARGV[i] do
  local records, parts, messages = tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7]), tonumber(ARGV[i + 8])
  out[#out + 1] = finish(i, records, parts, messages)
  i = i + 11 + 5 * records + 7 * parts + 3 * messages
end
for list, count in pairs(pushed) do notify(list, count, not later[list]) end
return out
"""
)

_EXCHANGE: Final = r"""
-- Of which message a claim is: of one that nobody has started.
local function exchange(list, number, raw)
  redis.call('HSET', own(list, 'held:' .. ARGV[3]), number, raw)
  redis.call('HDEL', own(list, 'marks:' .. ARGV[3]), number)
end
"""

# ARGV: prefix, sep, consumer, the list at which it waits, how many lists it has and their keys; list and number of a
# claim, and the message that it is to be of, empty if it is to stay as it is; then the words of records.
# Answers 0 when the claim is not there; 2, and does nothing, when something else waits; 1 when the records are stored.
ADVANCE: Final = Script(
    NAMES
    + DESPITE
    + records.KEEP
    + _EXCHANGE
    + r"""
local behind = 6 + tonumber(ARGV[5])
local list = ARGV[behind]
if redis.call('HEXISTS', own(list, 'held:' .. ARGV[3]), ARGV[behind + 1]) == 0 then return 0 end
local waiting, delayed = { own(ARGV[4], 'aside:' .. ARGV[3]) }, {}
for i = 6, behind - 1 do
  waiting[#waiting + 1] = ARGV[i]
  delayed[#delayed + 1] = own(ARGV[i], 'delayed')
end
if redis.call('EXISTS', unpack(waiting)) > 0 then return 2 end
if redis.call('EXISTS', unpack(delayed)) > 0 then
"""
    + CLOCK
    + r"""
  for _, key in ipairs(delayed) do
    if #redis.call('ZRANGEBYSCORE', key, '-inf', NOW, 'LIMIT', 0, 1) > 0 then return 2 end
  end
end
if redis.call('SISMEMBER', P .. 'kernel:paused', queue_of(list)) == 1 then return 2 end
for i = behind + 3, #ARGV, 5 do keep(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], true) end
if ARGV[behind + 2] ~= '' then exchange(list, ARGV[behind + 1], ARGV[behind + 2]) end
return 1
"""
)

# ARGV: prefix, sep, consumer; then of each claim its list, number, and the message that it is to be of.
EXCHANGE: Final = Script(
    COMMON
    + DESPITE
    + _EXCHANGE
    + r"""
for i = 4, #ARGV, 3 do
  if redis.call('HEXISTS', own(ARGV[i], 'held:' .. ARGV[3]), ARGV[i + 1]) == 1 then
    exchange(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
end
return 1
"""
)

# ARGV: prefix, sep, consumer, owner, lease, number of the last claim, the epoch that we know, lists.
# Answers 0 if the lease held, 1 if it had run out, 2 if all was forgotten; and the epoch.
RENEW: Final = Script(
    COMMON
    + DESPITE
    + r"""
local cid, lease = ARGV[3], tonumber(ARGV[5])
local deadline = tonumber(redis.call('ZSCORE', CONSUMERS, cid) or -1)
if deadline > NOW then
  redis.call('ZADD', CONSUMERS, NOW + lease, cid)
  return { 0, epoch(cid) }
end
if deadline >= 0 then release(cid, true) end
local how = register(cid, ARGV[4], lease, ARGV[6], deadline < 0 and ARGV[7] or '', 8)
return { how, epoch(cid) }
"""
)

# ARGV: prefix, sep, consumer; then of each claim its list, number, starts (-1: never seen) and message.
# For a server that forgot them. Answers 0, and does nothing, when it has forgotten the consumer again.
RESTORE: Final = Script(
    COMMON
    + DESPITE
    + r"""
if not redis.call('ZSCORE', CONSUMERS, ARGV[3]) then return 0 end
for i = 4, #ARGV, 4 do
  local new = redis.call('HSETNX', own(ARGV[i], 'held:' .. ARGV[3]), ARGV[i + 1], ARGV[i + 3])
  if new == 1 and tonumber(ARGV[i + 2]) >= 0 then
    redis.call('HSET', own(ARGV[i], 'marks:' .. ARGV[3]), ARGV[i + 1], ARGV[i + 2] .. ',0')
  end
end
return 1
"""
)

# ARGV: prefix, sep, consumer, lists. Answers the numbers of the claims that are held, list by list.
HELD: Final = Script(
    COMMON
    + r"""
local out = {}
for i = 4, #ARGV do out[i - 3] = redis.call('HKEYS', own(ARGV[i], 'held:' .. ARGV[3])) end
return out
"""
)

# ARGV: prefix, sep, consumer.
RELEASE: Final = Script(COMMON + DESPITE + "release(ARGV[3], false)\nreturn 1\n")
