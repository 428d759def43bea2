"""What the server does in one step with queues, for producers and operators. See `lua` for where everything lies."""

from __future__ import annotations

from typing import Final

from kernel_lib_redis import Script

from kernel_broker_redis.lua import COMMON, DESPITE

# ARGV: prefix, sep, list; then moments (ms) and messages in turn.
DELAY: Final = Script(
    COMMON
    + r"""
for i = 4, #ARGV, 2 do defer(ARGV[3], ARGV[i + 1], tonumber(ARGV[i]), 0, 0) end
notify(ARGV[3], 1)
return (#ARGV - 3) / 2
"""
)

# ARGV: prefix, sep; then keys and members of sets in turn.
DECLARE: Final = Script(
    COMMON
    + DESPITE
    + r"""
for i = 3, #ARGV, 2 do redis.call('SADD', ARGV[i], ARGV[i + 1]) end
return 1
"""
)

# ARGV: prefix, sep, lists of one queue.
STATS: Final = Script(
    COMMON
    + r"""
local queue = ARGV[3]
local ready, delayed, claimed, oldest, takers = 0, 0, 0, '', {}
for _, cid in ipairs(redis.call('ZRANGE', CONSUMERS, 0, -1)) do
  if redis.call('SISMEMBER', consumer_key(cid) .. ':lists', queue) == 1 then takers[#takers + 1] = cid end
end
for i = 3, #ARGV do
  local list = ARGV[i]
  local waiting, later = own(list, 'delayed'), 0
  later = redis.call('ZCOUNT', waiting, '(' .. NOW, '+inf')
  ready = ready + redis.call('LLEN', list) + redis.call('ZCARD', waiting) - later
  delayed = delayed + later
  for _, cid in ipairs(takers) do
    claimed = claimed + redis.call('HLEN', own(list, 'held:' .. cid)) + redis.call('LLEN', own(list, 'aside:' .. cid))
  end
  local first = redis.call('LINDEX', list, -1)
  local sent = first and string.match(first, '.*"kernel_sent": ([%d.]+)')
  if sent and (oldest == '' or tonumber(sent) < tonumber(oldest)) then oldest = sent end
end
return { ready, delayed, claimed, redis.call('ZCARD', own(queue, 'dead:order')),
  redis.call('SISMEMBER', P .. 'kernel:paused', queue), #takers, oldest, NOW }
"""
)

# ARGV: prefix, sep, how many to move at most, lists of one queue.
# Answers how many consumers of the queue live, and if none does, how many claimed and how many delayed messages of it
# wait in its lists from now on.
PLAIN: Final = Script(
    COMMON
    + r"""
local queue, limit, owners, claimed, delayed = ARGV[4], tonumber(ARGV[3]), 0, 0, 0
for _, cid in ipairs(redis.call('ZRANGE', CONSUMERS, 0, -1)) do
  if redis.call('SISMEMBER', consumer_key(cid) .. ':lists', queue) == 1 then
    if tonumber(redis.call('ZSCORE', CONSUMERS, cid)) > NOW then
      owners = owners + 1
    else
      for i = 4, #ARGV do claimed = claimed + redis.call('HLEN', own(ARGV[i], 'held:' .. cid)) end
      release(cid, true)
    end
  end
end
if owners > 0 then return { owners, claimed, 0 } end
for i = 4, #ARGV do
  local list = ARGV[i]
  -- The earliest first, behind all that waits already.
  for _, member in ipairs(redis.call('ZRANGE', own(list, 'delayed'), 0, limit - delayed - 1)) do
    redis.call('LPUSH', list, string.sub(member, 26))
    redis.call('ZREM', own(list, 'delayed'), member)
    delayed = delayed + 1
  end
  redis.call('UNLINK', own(list, 'seen'))
  if delayed >= limit then break end
end
return { 0, claimed, delayed }
"""
)

# ARGV: prefix, sep, lists of one queue.
PURGE: Final = Script(
    COMMON
    + r"""
local count = 0
for i = 3, #ARGV do
  local list = ARGV[i]
  count = count + redis.call('LLEN', list) + redis.call('ZCARD', own(list, 'delayed'))
  redis.call('UNLINK', list, own(list, 'delayed'), own(list, 'seen'))
end
return count
"""
)

# ARGV: prefix, sep, queue, 1 to pause and 0 to go on.
PAUSE: Final = Script(
    COMMON
    + r"""
redis.call('SADD', P .. 'kernel:queues', ARGV[3])
if ARGV[4] == '1' then return redis.call('SADD', P .. 'kernel:paused', ARGV[3]) end
notify(ARGV[3], 32)
return redis.call('SREM', P .. 'kernel:paused', ARGV[3])
"""
)

# ARGV: prefix, sep, queue, letter, list and message it becomes (or two empty words).
EXHUME: Final = Script(
    COMMON
    + r"""
if redis.call('HDEL', own(ARGV[3], 'dead'), ARGV[4]) == 0 then return 0 end
redis.call('HDEL', own(ARGV[3], 'dead:meta'), ARGV[4])
redis.call('ZREM', own(ARGV[3], 'dead:order'), ARGV[4])
if ARGV[5] ~= '' then
  redis.call('LPUSH', ARGV[5], ARGV[6])
  notify(ARGV[5], 1)
end
return 1
"""
)
