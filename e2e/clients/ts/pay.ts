// Pays with the generated types, and prints what it got.
import { Wallet } from "./wallet.js";

declare const process: { env: Record<string, string> };

const wallet = new Wallet(process.env.WALLET_URL, process.env.TOKEN);

for (const [i, nonce] of [2n ** 63n - 1n, 2n ** 64n - 2n].entries()) {
  const key = `ts-${i}`;
  const a = await wallet.pay("/v1/issue", key, { to: "ts", asset: "ron", amount_minor: "1000", nonce });
  if (a.status !== 200) throw new Error(a.body.message);
  console.log(a.body.op, a.body.amount_minor, String(a.body.nonce));
  const found = await wallet.get("/v1/tx", { account: "ts", idem: key });
  if (found.status !== 200) throw new Error(found.body.message);
  if (found.body.op === "burn") throw new Error(`a burn of ${found.body.from}`);
  console.log("found", String(found.body.nonce), found.body.to === "ts" && found.body.receipt_hash === a.body.receipt_hash);
}

for (const [amount_minor, nonce] of [["250", 2n ** 63n - 1n], ["9999", 2n ** 64n - 3n], ["1", 7n]] as const) {
  const a = await wallet.pay("/v1/transfer", `ts-pays-${amount_minor}`, { from: "ts", to: "bob", asset: "ron", amount_minor, nonce });
  if (a.status === 200) console.log(a.body.op, a.body.amount_minor, String(a.body.nonce));
  else if (a.status !== 409) throw new Error(a.body.message);
  else if (a.body.code === "NONCE_CONFLICT") console.log(a.body.code, String(a.body.details.next_nonce));
  else console.log(a.body.code satisfies "INSUFFICIENT_FUNDS");
}

const b = await wallet.get("/v1/balance", { account: "ts", asset: "ron" });
if (b.status !== 200) throw new Error(b.body.message);
console.log("balance", b.body.amount_minor, String(b.body.nonce));
