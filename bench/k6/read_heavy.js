// 95 % balances and 5 % transfers:
//
//	k6 run --insecure-skip-tls-verify -e MACAROON="$TOKEN" bench/k6/read_heavy.js
import { balance, fund, scenario, targets, transfer } from './wallet.js';

export const options = { scenarios: { read_heavy: scenario(4000) }, thresholds: targets };

export const setup = fund;

export default function (run) {
  if (Math.random() < 0.95) {
    balance(run);
  } else {
    transfer(run);
  }
}
