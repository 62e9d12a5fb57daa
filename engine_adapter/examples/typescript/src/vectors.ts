// Whether this language reads and writes the byte-exact vectors of proto/vectors: one line for each that it does not.
import * as loader from "@grpc/proto-loader";
import { readFileSync } from "node:fs";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";

interface Vector {
  name: string;
  message: string;
  json: object;
  hex: string;
}

const PROTO = process.env.TRAIL_PROTO ?? path.join(__dirname, "../../../../proto");
const FILES = ["engine", "predictor", "scheduler", "state"].map((name) => `trail/v1/${name}.proto`);
// Without `defaults`, what was not there when a message was read is not there when it is written.
const definition = loader.loadSync(FILES, { includeDirs: [PROTO], longs: String, enums: String });

// What is wrong with one vector; undefined: nothing.
function fault(vector: Vector): string | undefined {
  const type = definition[vector.message] as loader.MessageTypeDefinition<object, object> | undefined;
  if (!type) return "no such message";
  const written = type.serialize(vector.json).toString("hex");
  if (written !== vector.hex) return `written as ${written}`;
  const read = type.deserialize(Buffer.from(vector.hex, "hex"));
  const expected = type.deserialize(type.serialize(vector.json));
  if (!isDeepStrictEqual(read, expected)) return `read as ${JSON.stringify(read)}`;
  const again = type.serialize(read).toString("hex");
  return again === vector.hex ? undefined : `read, and written again as ${again}`;
}

const vectors: Vector[] = process.argv.slice(2).flatMap((file) => JSON.parse(readFileSync(file, "utf8")));
const faults = vectors.flatMap((vector) => (fault(vector) ? [`${vector.name}: ${fault(vector)}`] : []));
for (const line of faults) console.log(line);
console.log(`${vectors.length - faults.length} of ${vectors.length} vectors`);
process.exit(faults.length || !vectors.length ? 1 : 0);
