// The contract as it is in proto/, loaded when the adapter starts.
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import path from "node:path";
import type { ProtoGrpcType as PredictorTypes } from "./generated/predictor";
import type { ProtoGrpcType as SchedulerTypes } from "./generated/scheduler";

const PROTO = process.env.TRAIL_PROTO ?? path.join(__dirname, "../../../../proto");

export const definition = loader.loadSync(["trail/v1/predictor.proto", "trail/v1/scheduler.proto"], {
  includeDirs: [PROTO],
  // 64-bit numbers as decimal strings: a JavaScript number holds 53 bits of them.
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const loaded = grpc.loadPackageDefinition(definition) as unknown as PredictorTypes & SchedulerTypes;

// The channel must not wait longer before it connects again than a link does before it tries again.
const options = {
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2000,
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
};

export function predictorAt(address: string) {
  return new loaded.trail.v1.PredictorService(address, grpc.credentials.createInsecure(), options);
}

export function schedulerAt(address: string) {
  return new loaded.trail.v1.SchedulerService(address, grpc.credentials.createInsecure(), options);
}
