// The stream to the scheduler: what changed in the engine out, plans in.
import { schedulerAt } from "./contract";
import type { EngineSaid, FinishedSaid, Living, StepSaid } from "./engine";
import type { Epochs } from "./epochs";
import type { CoordinateRequest } from "./generated/trail/v1/CoordinateRequest";
import type { CoordinateResponse__Output } from "./generated/trail/v1/CoordinateResponse";
import type { FinishReason } from "./generated/trail/v1/FinishReason";
import { Link } from "./link";
import type { PlanKeeper } from "./plan";

export class SchedulerLink extends Link<CoordinateRequest, CoordinateResponse__Output, FinishedSaid> {
  private readonly client;
  private batch?: { said: StepSaid; handles: string[] };
  private preempted = new Set<string>();
  private engineSteps = 0;
  private freeKvBlocks: number;

  constructor(
    address: string,
    epochs: Epochs,
    private readonly engine: EngineSaid,
    private readonly living: Living,
    private readonly plans: PlanKeeper,
  ) {
    super(epochs);
    this.client = schedulerAt(address);
    this.freeKvBlocks = engine.kv_blocks;
  }

  // The newest batch wins; preemptions and the count of steps add up.
  stepped(said: StepSaid): void {
    this.freeKvBlocks = said.free_kv_blocks;
    if (!this.collecting) return;
    this.batch = { said, handles: said.running.map((each) => this.living.get(each.request_id).handle) };
    for (const id of said.preempted) this.preempted.add(this.living.get(id).handle);
    this.engineSteps += 1;
    this.flush();
  }

  protected start() {
    return this.client.Coordinate();
  }

  protected opening(): CoordinateRequest {
    const { max_running_requests, kv_blocks, kv_block_tokens, step_token_budget } = this.engine;
    return {
      open: {
        engineId: this.engine.engine_id,
        epoch: this.epoch,
        capacity: {
          maxRunningRequests: max_running_requests,
          kvBlocks: kv_blocks,
          kvBlockTokens: kv_block_tokens,
          stepTokenBudget: step_token_budget,
        },
        requests: this.living.declarations(),
      },
    };
  }

  protected take(): CoordinateRequest | undefined {
    if (!this.batch && !this.declared.length && !this.ended.length) return undefined;
    const batch = this.batch;
    const delta = {
      epoch: this.epoch,
      step: this.nextStep(),
      stepDurationS: batch?.said.duration_s ?? 0,
      arrived: this.declared.map((request) => request.declaration(0)),
      running: batch && {
        handles: batch.handles,
        ages: batch.said.running.map((each) => each.age),
        computedTokens: batch.said.running.map((each) => each.computed_tokens),
      },
      preempted: [...this.preempted],
      finished: this.ended.map(([request, end]) => outcome(request.handle, end)),
      freeKvBlocks: this.freeKvBlocks,
      engineSteps: this.engineSteps,
    };
    this.taken();
    this.forgetBatch();
    return { delta };
  }

  protected received(answer: CoordinateResponse__Output): void {
    const plan = answer.plan;
    const isOurs = plan?.epoch?.incarnation === this.epoch.incarnation && plan?.epoch?.counter === this.epoch.counter;
    if (plan && isOurs) this.plans.follow(plan);
  }

  // A plan dies with its stream.
  protected lost(): void {
    this.plans.withdraw();
  }

  protected override clear(): void {
    super.clear();
    this.forgetBatch();
  }

  private forgetBatch(): void {
    this.batch = undefined;
    this.preempted = new Set();
    this.engineSteps = 0;
  }
}

function outcome(handle: string, end: FinishedSaid) {
  return {
    handle,
    reason: `FINISH_REASON_${end.reason.toUpperCase()}` as FinishReason,
    outputTokens: end.output_tokens,
    latencyS: end.latency_s,
    timeToFirstTokenS: end.time_to_first_token_s,
    preemptions: end.preemptions,
    recomputedTokens: end.recomputed_tokens,
  };
}
