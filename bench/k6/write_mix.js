// 70 % balances and 30 % transfers:
//
//	k6 run --insecure-skip-tls-verify -e MACAROON="$TOKEN" bench/k6/write_mix.js
import { balance, fund, scenario, targets, transfer } from './wallet.js';

export const options = { scenarios: { write_mix: scenario(2500) }, thresholds: targets };

export const setup = fund;

export default function (run) {
  if (Math.random() < 0.7) {
    balance(run);
  } else {
    transfer(run);
  }
}
