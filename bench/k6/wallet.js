// What the scenarios share: who pays, with which nonce, and what an answer must be. Each VU has accounts of its own,
// so its nonces rise whatever the others do.
//
//	BASE      https://127.0.0.1:8443
//	MACAROON  a token that may read, issue and transfer on acc_*
//	VUS       accounts that setup funds, 600 as the scenarios have them at most
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';

export const BASE = __ENV.BASE || 'https://127.0.0.1:8443';
export const VUS = Number(__ENV.VUS || 600);

const headers = (more) => Object.assign({ Authorization: `Bearer ${__ENV.MACAROON}` }, more);

// run is part of each key and account, so that a second run pays from accounts of its own.
const account = (run, vu) => `acc_${run}_${vu}`;

function post(path, body, key) {
  const params = { headers: headers({ 'Content-Type': 'application/json', 'Idempotency-Key': key }), timeout: '5s', tags: { name: path } };
  return http.post(`${BASE}${path}`, JSON.stringify(body), params);
}

// fund gives every VU's account money. What it returns, k6 hands to every iteration.
export function fund() {
  const run = Date.now();
  for (let vu = 1; vu <= VUS; vu++) {
    const res = post('/v1/issue', { to: account(run, vu), asset: 'ron', amount_minor: '1000000000', nonce: 1 }, `${run}-fund-${vu}`);
    if (res.status !== 200) {
      exec.test.abort(`funding ${account(run, vu)}: ${res.status} ${res.body}`);
    }
  }
  return run;
}

let nonce = 0;

// transfer pays from this VU's account to the next one's. A nonce is spent by an answer that is final.
export function transfer(run) {
  const vu = exec.vu.idInTest;
  const res = post('/v1/transfer', { from: account(run, vu), to: account(run, vu % VUS + 1), asset: 'ron', amount_minor: '1', nonce: nonce + 1 }, `${run}-${vu}-${nonce + 1}`);
  if (res.status === 200) {
    nonce++;
  }
  check(res, { 'the payment is made, or shed': (r) => [200, 429, 503].includes(r.status) });
}

export function balance(run) {
  const vu = 1 + Math.floor(Math.random() * VUS);
  const res = http.get(`${BASE}/v1/balance?account=${account(run, vu)}&asset=ron`, { headers: headers(), timeout: '5s', tags: { name: '/v1/balance' } });
  check(res, { 'the balance is read, or shed': (r) => [200, 429, 503].includes(r.status) });
}

// scenario is a constant rate of arrivals: RATE a second for DURATION.
export function scenario(rate) {
  return {
    executor: 'constant-arrival-rate',
    rate: Number(__ENV.RATE || rate), timeUnit: '1s', duration: __ENV.DURATION || '10m',
    preAllocatedVUs: Math.min(300, VUS), maxVUs: VUS,
  };
}

// targets are the contract's (docs/performance.md).
export const targets = {
  checks: ['rate==1'],
  http_req_failed: ['rate<0.011'],
  'http_req_duration{name:/v1/balance}': ['p(95)<120', 'p(99)<250'],
  'http_req_duration{name:/v1/transfer}': ['p(95)<180', 'p(99)<350'],
};
