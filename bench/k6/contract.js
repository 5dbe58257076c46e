// The script of the performance contract as it stands there, but for its import from the network. Its nonce is
// constant, so one payment is made at most and all others get 409 NONCE_CONFLICT: it measures refusals, not
// payments. write_mix.js measures payments.
//
//	k6 run --insecure-skip-tls-verify -e BASE=https://127.0.0.1:8443 -e MACAROON="$TOKEN" bench/k6/contract.js
import http from 'k6/http';
import { check, sleep } from 'k6';

export const options = {
  scenarios: {
    write_mix: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 2500), timeUnit: '1s', duration: __ENV.DURATION || '10m',
      preAllocatedVUs: 300, maxVUs: 600,
    },
  },
};

const BASE = __ENV.BASE || 'https://wallet';
const MAC = __ENV.MACAROON;

export default function () {
  const payload = JSON.stringify({ from: 'acc_src', to: 'acc_dst', asset: 'ron', amount_minor: '250000', nonce: 42 });
  const params = {
    headers: { Authorization: `Bearer ${MAC}`, 'Content-Type': 'application/json', 'Idempotency-Key': crypto.randomUUID() },
    timeout: '5s',
  };
  const res = http.post(`${BASE}/v1/transfer`, payload, params);
  check(res, { 'status is 200/409/429/503': (r) => [200, 409, 429, 503].includes(r.status) });
  sleep(0.001);
}
