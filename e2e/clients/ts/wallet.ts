// A client of the wallet routes, over the types that openapi-typescript makes of docs/openapi.yaml.
import { parse, stringify, isSafeNumber } from "lossless-json";
import type { paths } from "./schema.js";

type PaymentPath = "/v1/issue" | "/v1/transfer" | "/v1/burn";
type Request<P extends PaymentPath> = paths[P]["post"]["requestBody"]["content"]["application/json"];

// Answer is one of the documented answers; its status tells which, then op or code.
type Answer<R> = {
  [S in keyof R]: R[S] extends { content: { "application/json": infer B } } ? { status: S; body: B } : never;
}[keyof R];

const wide = new Set(["nonce", "next_nonce", "ledger_seq"]); // uint64 in the document

// exact parses JSON with 64-bit integers as they are.
const exact = (text: string) =>
  parse(text, (key, v) => (wide.has(key) ? BigInt(String(v)) : v), (s) => (isSafeNumber(s) ? Number(s) : BigInt(s)));

export class Wallet {
  constructor(readonly url: string, readonly token: string) {}

  // pay makes a payment. While it throws, or the answer is retryable, repeat it with the same key.
  pay<P extends PaymentPath>(path: P, key: string, body: Request<P>): Promise<Answer<paths[P]["post"]["responses"]>> {
    return this.send("POST", path, { "Content-Type": "application/json", "Idempotency-Key": key }, stringify(body));
  }

  get<P extends "/v1/balance" | "/v1/tx">(path: P, query: paths[P]["get"]["parameters"]["query"]): Promise<Answer<paths[P]["get"]["responses"]>> {
    return this.send("GET", `${path}?${new URLSearchParams(query)}`, {});
  }

  private async send<A>(method: string, path: string, headers: Record<string, string>, body?: string): Promise<A> {
    const r = await fetch(this.url + path, { method, body, headers: { ...headers, Authorization: `Bearer ${this.token}` } });
    return { status: r.status, body: exact(await r.text()) } as A;
  }
}
