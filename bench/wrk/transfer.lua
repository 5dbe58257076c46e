-- Durable transfers for wrk: each connection has no state of its own in wrk, so each thread pays from one account, and
-- its nonces may arrive out of order by as many as it has connections. Few connections a thread, then: with -t = -c
-- nothing is refused. TOKEN and RUN come from the environment.
local thread = 0

function setup(t)
  thread = thread + 1
  t:set("id", thread)
end

function init()
  token, run, funded, nonce = os.getenv("TOKEN"), os.getenv("RUN") or tostring(os.time()), 0, 1
end

function request()
  local headers = { ["Authorization"] = "Bearer " .. token, ["Content-Type"] = "application/json" }
  local from = "acc_" .. run .. "_" .. id
  if funded < 2 then -- twice under one key: wrk asks for one request that it does not send
    funded = funded + 1
    headers["Idempotency-Key"] = run .. "-fund-" .. id
    return wrk.format("POST", "/v1/issue", headers, '{"to":"' .. from .. '","asset":"ron","amount_minor":"1000000000","nonce":1}')
  end
  headers["Idempotency-Key"] = run .. "-" .. id .. "-" .. nonce
  local body = '{"from":"' .. from .. '","to":"acc_' .. run .. '","asset":"ron","amount_minor":"1","nonce":' .. nonce .. "}"
  nonce = nonce + 1
  return wrk.format("POST", "/v1/transfer", headers, body)
end
