-- One batch of quota operations, applied as one atomic step. The same arithmetic as engine.py, whose comments say why;
-- the conformance suite and a differential property test hold the two together.
--
-- KEYS[1]  prefix of all keys. It carries a hash tag, so that a cluster keeps everything in one slot.
-- ARGV[1]  MessagePack [owner, lease_ms, [operation, ...], now_ms]; now_ms < 0: the server's own clock.
-- Returns  MessagePack [now_ms, [result, ...]].
--
-- <prefix>:m:<meter>  hash   s spent, r reserved, e expires, l log of a rate meter (MessagePack)
-- <prefix>:o:<owner>  hash   live reservation -> MessagePack [holds, progress]
-- <prefix>:late:<id>  string MessagePack of what a reaped (or, empty, a cancelled) reservation was charged
-- <prefix>:leases     zset   owner by lease_until;  <prefix>:beats  hash  owner -> beat_at

local RATE = 3
local WINDOW, GRAIN = 60000, 1000
local LATE = 24 * 3600000
local MAX = 9007199254740991

local prefix = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local me, lease, ops, now = request[1], request[2], request[3], request[4]
if now < 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local timely = math.floor(lease * 2 / 3)

local meters, order = {}, {}

local function meter(key)
  local m = meters[key]
  if not m then
    local raw = redis.call('HMGET', prefix .. ':m:' .. key, 's', 'r', 'e', 'l')
    m = { s = tonumber(raw[1] or 0), r = tonumber(raw[2] or 0), e = tonumber(raw[3] or 0),
          log = raw[4] and cmsgpack.unpack(raw[4]) or {}, dirty = false, known = raw[3] }
    meters[key] = m
    order[#order + 1] = key
  end
  return m
end

local function write_back()
  for _, key in ipairs(order) do
    local m = meters[key]
    if m.dirty then
      local name = prefix .. ':m:' .. key
      if m.e == 0 and m.r == 0 and m.s == 0 then
        redis.call('DEL', name)
      elseif #m.log > 0 then
        redis.call('HSET', name, 's', m.s, 'r', m.r, 'e', m.e, 'l', cmsgpack.pack(m.log))
        redis.call('PEXPIREAT', name, m.e)
      else
        redis.call('HSET', name, 's', m.s, 'r', m.r, 'e', m.e)
        if m.e > 0 and tonumber(m.known or -1) ~= m.e then
          redis.call('PEXPIREAT', name, m.e)
        end
      end
    end
  end
end

local function owner_of(id)
  return string.match(id, '^(.*)%-[^-]*$') or id
end

local function take(id)
  return redis.call('HDEL', prefix .. ':o:' .. owner_of(id), id) == 1
end

local function held(id)
  local raw = redis.call('HGET', prefix .. ':o:' .. owner_of(id), id)
  return raw and cmsgpack.unpack(raw)
end

local function add_late(id, charged)
  redis.call('SET', prefix .. ':late:' .. id, cmsgpack.pack(charged), 'PX', LATE)
end

local function put_owner(owner, lease_until, beat_at)
  redis.call('ZADD', prefix .. ':leases', lease_until, owner)
  redis.call('HSET', prefix .. ':beats', owner, beat_at)
end

local function drop_owner(owner)
  redis.call('ZREM', prefix .. ':leases', owner)
  redis.call('HDEL', prefix .. ':beats', owner)
  redis.call('DEL', prefix .. ':o:' .. owner)
end

local function book(key, amount_held, actual, expires)
  local m = meter(key)
  m.r = math.max(0, m.r - amount_held)
  m.s = math.min(MAX, m.s + actual)
  m.e = expires
  m.dirty = true
end

local function trim(m)
  local kept, used = {}, 0
  for _, entry in ipairs(m.log) do
    if entry[2] > now - WINDOW or #kept > 0 then
      if entry[2] > now then
        entry[2] = now
        entry[1] = math.min(entry[1], now)
        m.dirty, m.e = true, now + 2 * WINDOW
      end
      kept[#kept + 1] = entry
      used = used + entry[3]
    end
  end
  m.log = kept
  return used
end

local function next_slot(m, used, limit)
  local free_at = 0
  for _, entry in ipairs(m.log) do
    used = used - entry[3]
    free_at = entry[2] + WINDOW
    if used < limit then break end
  end
  return free_at
end

local leased = false

local function take_lease()
  if leased then return end
  leased = true
  local lease_until = redis.call('ZSCORE', prefix .. ':leases', me)
  if not lease_until then
    put_owner(me, now + lease, 0)
  elseif tonumber(lease_until) - now < timely then
    redis.call('ZADD', prefix .. ':leases', now + lease, me)
  end
end

local run = {}

-- ['r', id, charges, amounts, lo, hi]; a charge is [key, measure, limit, expires]
function run.r(op)
  local id, charges, amounts, lo, answer = op[2], op[3], op[4], op[5], op[6]
  if redis.call('EXISTS', prefix .. ':late:' .. id) == 1 then
    return { 'n', -1, 0, 0, 0 }
  end
  take_lease()
  local used_in = {}
  for i, charge in ipairs(charges) do
    local m = meter(charge[1])
    if charge[2] == RATE then
      local used = trim(m)
      if used >= charge[3] then
        return { 'n', i - 1, used, 0, next_slot(m, used, charge[3]) }
      end
      used_in[i] = used
    else
      local base, unit = amounts[charge[2] + 1][1], amounts[charge[2] + 1][2]
      local free = charge[3] - m.s - m.r - base
      if free < unit * lo then
        return { 'n', i - 1, m.s, m.r, 0 }
      end
      if free < unit * answer then
        answer = (free - math.fmod(free, unit)) / unit
      end
    end
  end
  local holds, states = {}, {}
  for i, charge in ipairs(charges) do
    local m = meter(charge[1])
    m.dirty = true
    if charge[2] == RATE then
      local last = m.log[#m.log]
      if last and now - last[1] < GRAIN then
        last[2] = now
        last[3] = last[3] + 1
      else
        m.log[#m.log + 1] = { now, now, 1 }
      end
      m.e = now + 2 * WINDOW
      states[i] = { used_in[i] + 1, 0, now + WINDOW }
    else
      local amount = amounts[charge[2] + 1][1] + amounts[charge[2] + 1][2] * answer
      m.r = m.r + amount
      m.e = charge[4]
      holds[#holds + 1] = { charge[1], charge[2], amount, charge[4] }
      states[i] = { m.s, m.r, 0 }
    end
  end
  if #holds > 0 then
    redis.call('HSET', prefix .. ':o:' .. me, id, cmsgpack.pack({ holds, {} }))
  end
  return { 'g', answer, states }
end

-- ['s', id, entries]; an entry is [key, held, actual, expires]
function run.s(op)
  if take(op[2]) then
    for _, entry in ipairs(op[3]) do book(entry[1], entry[2], entry[3], entry[4]) end
    return { 'd', 1 }
  end
  local name = prefix .. ':late:' .. op[2]
  local raw = redis.call('GET', name)
  if not raw then return { 'd', 0 } end
  redis.call('DEL', name)
  local charged = cmsgpack.unpack(raw)
  for i, entry in ipairs(op[3]) do
    book(entry[1], 0, math.max(0, entry[3] - (charged[i] or 0)), entry[4])
  end
  return { 'd', 2 }
end

-- ['c', id]
function run.c(op)
  local record = held(op[2])
  if not record then
    if redis.call('EXISTS', prefix .. ':late:' .. op[2]) == 0 then add_late(op[2], {}) end
    return { 'd', 0 }
  end
  take(op[2])
  for _, hold in ipairs(record[1]) do book(hold[1], hold[3], 0, hold[4]) end
  return { 'd', 1 }
end

local function reap(owner)
  local reaped = 0
  local rows = redis.call('HGETALL', prefix .. ':o:' .. owner)
  for i = 1, #rows, 2 do
    local record = cmsgpack.unpack(rows[i + 1])
    local charged = {}
    for j, hold in ipairs(record[1]) do
      charged[j] = record[2][j] or 0
      book(hold[1], hold[3], charged[j], hold[4])
    end
    add_late(rows[i], charged)
    reaped = reaped + 1
  end
  drop_owner(owner)
  return reaped
end

-- ['b', [[id, [amount, ...]], ...]]
function run.b(op)
  local beat_at = tonumber(redis.call('HGET', prefix .. ':beats', me) or -1)
  put_owner(me, now + lease, now)
  for _, line in ipairs(op[2]) do
    local record = held(line[1])
    if record then
      redis.call('HSET', prefix .. ':o:' .. owner_of(line[1]), line[1], cmsgpack.pack({ record[1], line[2] }))
    end
  end
  if beat_at < 0 or now - beat_at < math.floor(lease / 6) or now - beat_at > timely then return { 'd', 0 } end
  local reaped = 0
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', prefix .. ':leases', '-inf', now)) do
    if owner ~= me then reaped = reaped + reap(owner) end
  end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', prefix .. ':leases', '(' .. (now + 2 * lease), '+inf')) do
    put_owner(owner, now + lease, now)
  end
  return { 'd', reaped }
end

-- ['l']
function run.l()
  if redis.call('EXISTS', prefix .. ':o:' .. me) == 1 then return { 'd', 0 } end
  drop_owner(me)
  return { 'd', 1 }
end

-- ['v', charges]
function run.v(op)
  local states = {}
  for i, charge in ipairs(op[2]) do
    local m = meter(charge[1])
    if charge[2] == RATE then
      local used = trim(m)
      states[i] = { used, 0, #m.log > 0 and m.log[#m.log][2] + WINDOW or now }
    else
      states[i] = { m.s, m.r, 0 }
    end
  end
  return { 'v', states }
end

local results = {}
for i, op in ipairs(ops) do
  results[i] = run[op[1]](op)
end
write_back()
return cmsgpack.pack({ now, results })
