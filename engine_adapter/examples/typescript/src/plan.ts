// The newest plan, and what the engine should do by it now.
import type { Living } from "./engine";
import type { EnginePlan__Output } from "./generated/trail/v1/EnginePlan";
import type { Preemption__Output } from "./generated/trail/v1/Preemption";

export interface Decision {
  // Ids, best first; empty: the engine's own order.
  order: string[];
  preempt: string[];
}

export class PlanKeeper {
  private handles: string[] = [];
  private preemptions: Preemption__Output[] = [];
  private expiresMs = 0;

  constructor(private readonly living: Living) {}

  // A plan's life starts when it comes. One that contradicts itself is not followed.
  follow(plan: EnginePlan__Output): void {
    const { handles, ranks, predictedAtAges } = plan;
    if (ranks.length !== handles.length || predictedAtAges.length !== handles.length) return;
    this.handles = handles;
    this.preemptions = plan.preemptions;
    this.expiresMs = performance.now() + plan.ttlMs;
  }

  withdraw(): void {
    this.expiresMs = 0;
  }

  // For the engine's next step. Reads memory only: an engine asks before every step.
  decide(): Decision {
    if (performance.now() >= this.expiresMs) return { order: [], preempt: [] };
    const victims = this.preemptions.filter((preemption) => this.holds(preemption)).map((each) => each.victim);
    // Each is asked for once: whoever comes back under the same plan stays.
    this.preemptions = [];
    return { order: this.ids(this.handles), preempt: this.ids(victims) };
  }

  // The victim runs and is young enough, and somebody waits for its place.
  private holds({ victim, onlyIfAgeBelow, beneficiary }: Preemption__Output): boolean {
    const running = this.living.running;
    const age = this.living.withHandle(victim)?.age ?? Infinity;
    const waits = this.living.withHandle(beneficiary) !== undefined && !running.has(beneficiary);
    return running.has(victim) && age < onlyIfAgeBelow && waits;
  }

  private ids(handles: string[]): string[] {
    return handles.flatMap((handle) => this.living.withHandle(handle)?.id ?? []);
  }
}
