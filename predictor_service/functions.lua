#!lua name=trail_v1

-- Writes to an engine's posteriors, fenced by its owner epoch ("<incarnation>:<counter>").
-- KEYS: owner, posterior[, predictions channel]. Names carry the version: functions of two releases
-- live side by side in one server.

local CHUNK = 1000 -- unpack() has a limit of a few thousand values

local function in_chunks(command, key, values, first)
  for from = first, #values, CHUNK do
    redis.call(command, key, unpack(values, from, math.min(from + CHUNK - 1, #values)))
  end
end

-- ARGV: epoch, expire_s, id of each living request...
-- Replies with the previous owner ("" for none), then id, record, id, record... of living requests.
-- Within one incarnation counters rise, so an open that was overtaken by a later one is refused
-- with an error; incarnations have no order.
local function claim(keys, args)
  local epoch, expire_s = args[1], args[2]
  local previous = redis.call('GET', keys[1]) or ''
  local mine, my_counter = string.match(epoch, '^(%d+):(%d+)$')
  local theirs, their_counter = string.match(previous, '^(%d+):(%d+)$')
  if mine == theirs and tonumber(their_counter) > tonumber(my_counter) then
    return redis.error_reply('FENCED ' .. previous)
  end
  redis.call('SET', keys[1], epoch, 'EX', expire_s)
  local alive = {}
  for i = 3, #args do
    alive[args[i]] = true
  end
  local reply, dead = { previous }, {}
  local fields = redis.call('HGETALL', keys[2])
  for i = 1, #fields, 2 do
    if alive[fields[i]] then
      reply[#reply + 1], reply[#reply + 2] = fields[i], fields[i + 1]
    else
      dead[#dead + 1] = fields[i]
    end
  end
  in_chunks('HDEL', keys[2], dead, 1)
  redis.call('EXPIRE', keys[2], expire_s)
  return reply
end

-- ARGV: epoch, expire_s, message ("": publish nothing), number of deletions, id..., then id, record...
-- Replies 1, or the epoch of the owner where that is another ("": there is none).
local function commit(keys, args)
  local epoch, expire_s, message, deletions = args[1], args[2], args[3], tonumber(args[4])
  local owner = redis.call('GET', keys[1]) or ''
  if owner ~= epoch then
    return owner
  end
  local gone = {}
  for i = 5, 4 + deletions do
    gone[#gone + 1] = args[i]
  end
  in_chunks('HDEL', keys[2], gone, 1)
  in_chunks('HSET', keys[2], args, 5 + deletions)
  redis.call('EXPIRE', keys[1], expire_s)
  redis.call('EXPIRE', keys[2], expire_s)
  if message ~= '' then
    redis.call('SPUBLISH', keys[3], message)
  end
  return 1
end

redis.register_function('trail_claim_v1', claim)
redis.register_function('trail_commit_v1', commit)
