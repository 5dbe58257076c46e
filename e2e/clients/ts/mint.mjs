// Makes a capability with nothing but HMAC-SHA256, and narrows it.
import { createHmac } from "node:crypto";

const hmac = (key, data) => createHmac("sha256", key).update(data).digest();

// A field is its type, its length as a varint (one byte below 128, else two), and its bytes.
const field = (type, bytes) => {
  const n = bytes.length;
  return Buffer.concat([Buffer.from(n < 128 ? [type, n] : [type, (n & 127) | 128, n >> 7]), bytes]);
};
const [location, identifier, signature] = [1, 2, 6];

// token is version 2, location and identifier, then the caveats, then the signature; a zero ends each part.
const token = (id, caveats, sig) =>
  Buffer.concat([
    Buffer.from([2]),
    field(location, Buffer.from("svc-wallet")), field(identifier, Buffer.from(id)), Buffer.from([0]),
    ...caveats.flatMap((c) => [field(identifier, Buffer.from(c)), Buffer.from([0])]),
    Buffer.from([0]),
    field(signature, sig),
  ]).toString("base64url");

const rootKey = Buffer.from("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "hex");
const id = "v1:k1:shop-7";
const caveats = ["aud = svc-wallet", "exp = 4102444800", "actions = read,transfer", "accounts = acc_1,team_*"];

let sig = hmac(hmac("macaroons-key-generator", rootKey), id);
for (const c of caveats) sig = hmac(sig, c);
console.log(token(id, caveats, sig));

const narrower = ["max_amount = 500", "assets = ron"]; // this step needs no key: it goes on from sig
for (const c of narrower) sig = hmac(sig, c);
console.log(token(id, [...caveats, ...narrower], sig));
