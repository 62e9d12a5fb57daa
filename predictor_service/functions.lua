#!lua name=trail_v3

-- Writes to an engine's posteriors, fenced by its owner epoch ("<incarnation>:<counter>").
-- KEYS: owner, posterior, commits[, predictions channel]. Names carry the version: functions of two releases
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
  redis.call('SET', keys[3], 0, 'EX', expire_s)
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

-- The parts of `content`, whose sizes in bytes are 32-bit numbers, least significant byte first, in `sizes`.
local function parts_of(content, sizes)
  local parts, at = {}, 1
  for i = 1, #sizes, 4 do
    local a, b, c, d = string.byte(sizes, i, i + 3)
    local next_at = at + a + 256 * (b + 256 * (c + 256 * d))
    parts[#parts + 1] = string.sub(content, at, next_at - 1)
    at = next_at
  end
  return parts
end

-- ARGV: epoch, expire_s, number of this commit since the claim (0: whichever comes next), message ("": publish
-- nothing), number of deletions, id..., then all ids and records, id, record, id, record..., as one string, and the
-- sizes of these. One argument each would cost the client more than all else that it does.
-- Replies 1, or the epoch of the owner where that is another ("": there is none, or commits before this one are lost,
-- as after a fail-over to a replica that had not heard of them: what they deleted is still there).
local function commit(keys, args)
  local epoch, expire_s, number, message, deletions = args[1], args[2], tonumber(args[3]), args[4], tonumber(args[5])
  local owner = redis.call('GET', keys[1]) or ''
  if owner ~= epoch then
    return owner
  end
  local next_number = tonumber(redis.call('GET', keys[3]) or -1) + 1
  if number ~= 0 and number ~= next_number then
    return ''
  end
  redis.call('SET', keys[3], next_number, 'EX', expire_s)
  local gone = {}
  for i = 6, 5 + deletions do
    gone[#gone + 1] = args[i]
  end
  in_chunks('HDEL', keys[2], gone, 1)
  in_chunks('HSET', keys[2], parts_of(args[6 + deletions], args[7 + deletions]), 1)
  redis.call('EXPIRE', keys[1], expire_s)
  redis.call('EXPIRE', keys[2], expire_s)
  if message ~= '' then
    redis.call('SPUBLISH', keys[4], message)
  end
  return 1
end

redis.register_function('trail_claim_v3', claim)
redis.register_function('trail_commit_v3', commit)
