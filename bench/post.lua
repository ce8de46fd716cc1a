-- wrk script: posts chat completions whose text differs in every request, so that no cache can flatter a gateway.
--
-- PROMPTS   file written by bench/prompts.py: two lines per body, what stands before and after a serial number;
--           an empty second line means a constant body without a serial number
-- FIRST     first serial number (each run takes another, so that no text comes twice)
-- KEY       bearer token
--
-- Prints one line, `RES {...}`: requests per second, number of answers, percentiles in milliseconds, errors.

local heads, tails, constant, count = {}, {}, {}, 0
local serial = tonumber(os.getenv("FIRST") or "0")
local SERIAL_WIDTH = 8

function init()
  local file = assert(io.open(os.getenv("PROMPTS"), "rb"))
  local common = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nAuthorization: Bearer " .. (os.getenv("KEY") or "sk-bench")
    .. "\r\nContent-Length: "
  while true do
    local head = file:read("*l")
    if not head then break end
    local tail = file:read("*l")
    count = count + 1
    constant[count] = tail == ""
    local length = #head + #tail + (constant[count] and 0 or SERIAL_WIDTH)
    heads[count] = common .. length .. "\r\n\r\n" .. head
    tails[count] = tail
  end
  file:close()
  assert(count > 0, "no prompts")
end

function request()
  serial = serial + 1
  local i = serial % count + 1
  if constant[i] then return heads[i] end
  return heads[i] .. string.format("%08d", serial) .. tails[i]
end

function done(summary, latency)
  local ms = function(p) return latency:percentile(p) / 1000 end
  local e = summary.errors
  io.write(string.format(
    '\nRES {"rps":%.1f,"requests":%d,"p50_ms":%.3f,"p95_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,'
    .. '"bad_status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests / (summary.duration / 1e6), summary.requests, ms(50), ms(95), ms(99), latency.max / 1000,
    e.status, e.connect, e.read, e.write, e.timeout))
end
