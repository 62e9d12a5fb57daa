// The stream to the predictor: declarations, rows and ends out. One message at a time: until it is answered, the newest
// row of each request wins here, and nothing queues up.
import { predictorAt } from "./contract";
import type { EngineSaid, FinishedSaid, Living, Request, StepSaid } from "./engine";
import type { Epochs } from "./epochs";
import type { StreamPredictRequest } from "./generated/trail/v1/StreamPredictRequest";
import type { StreamPredictResponse__Output } from "./generated/trail/v1/StreamPredictResponse";
import type { Vectors } from "./generated/trail/v1/Vectors";
import { Link } from "./link";

type Row = { age: number; values: number[] };

export class PredictorLink extends Link<StreamPredictRequest, StreamPredictResponse__Output, FinishedSaid> {
  private readonly client;
  private rows = new Map<string, Row>();
  private unanswered = false;

  constructor(
    address: string,
    epochs: Epochs,
    private readonly engine: EngineSaid,
    private readonly living: Living,
  ) {
    super(epochs);
    this.client = predictorAt(address);
  }

  stepped(said: StepSaid): void {
    if (!this.collecting) return;
    for (const row of said.rows) this.rows.set(this.living.get(row.request_id).handle, row);
    this.flush();
  }

  override finished(request: Request, end: FinishedSaid): void {
    this.rows.delete(request.handle);
    super.finished(request, end);
  }

  protected start() {
    return this.client.StreamPredict();
  }

  protected opening(): StreamPredictRequest {
    this.unanswered = false;
    return {
      open: {
        engineId: this.engine.engine_id,
        epoch: this.epoch,
        dtype: "DTYPE_FLOAT32",
        dim: this.engine.dim,
        requests: this.living.declarations(),
      },
    };
  }

  protected override maySend(): boolean {
    return !this.unanswered;
  }

  protected take(): StreamPredictRequest | undefined {
    const ready = [...this.rows].filter(([handle]) => !this.isDeclaredLater(handle));
    if (!ready.length && !this.declared.length && !this.ended.length) return undefined;
    const prompts = ready.filter(([, row]) => row.age === 0);
    const decodes = ready.filter(([, row]) => row.age > 0);
    const step = {
      epoch: this.epoch,
      step: this.nextStep(),
      declared: this.declared.map((request) => request.declaration(0)),
      finished: this.ended.map(([request]) => request.handle),
      prompts: prompts.length ? { handles: prompts.map(([handle]) => handle), last: packed(prompts) } : undefined,
      decodes: decodes.length
        ? { handles: decodes.map(([handle]) => handle), ages: decodes.map(([, row]) => row.age), last: packed(decodes) }
        : undefined,
    };
    for (const [handle] of ready) this.rows.delete(handle);
    this.taken();
    this.unanswered = true;
    return { step };
  }

  // Predictions reach the scheduler by themselves; whoever wants them here finds them in the answer.
  protected received(): void {
    this.unanswered = false;
  }

  protected lost(): void {}

  protected override clear(): void {
    super.clear();
    this.rows?.clear();
  }
}

function packed(rows: [string, Row][]): Vectors {
  const dim = rows[0]?.[1].values.length ?? 0;
  const data = Buffer.alloc(4 * dim * rows.length);
  rows.forEach(([, row], r) => row.values.forEach((value, i) => data.writeFloatLE(value, 4 * (r * dim + i))));
  return { data, dtype: "DTYPE_FLOAT32", rows: rows.length, dim };
}
