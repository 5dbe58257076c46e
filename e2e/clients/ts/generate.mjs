// Makes schema.d.ts of docs/openapi.yaml. What the document calls uint64 is a bigint: a number is exact only
// up to 2^53.
import { writeFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const bigint = ts.factory.createKeywordTypeNode(ts.SyntaxKind.BigIntKeyword);
const schema = await openapiTS(new URL("../../../docs/openapi.yaml", import.meta.url), {
  transform: (schema) => (schema.format === "uint64" ? bigint : undefined),
});
writeFileSync(new URL("schema.d.ts", import.meta.url), astToString(schema));
