// What the engine says, one JSON object a line, and who lives in it. In an adapter of your own this is the engine itself.
import type { RequestDeclaration } from "./generated/trail/v1/RequestDeclaration";

export interface EngineSaid {
  engine_id: string;
  max_running_requests: number;
  kv_blocks: number;
  kv_block_tokens: number;
  step_token_budget: number;
  dim: number;
}

export interface ArrivedSaid {
  request_id: string;
  prompt_token_ids: number[];
  max_tokens: number;
  arrival_time_s: number;
  priority: number;
  tenant: string;
}

export interface StepSaid {
  step: number;
  duration_s: number;
  free_kv_blocks: number;
  running: { request_id: string; age: number; computed_tokens: number }[];
  preempted: string[];
  rows: { request_id: string; age: number; values: number[] }[];
}

export interface FinishedSaid {
  request_id: string;
  reason: string;
  output_tokens: number;
  latency_s: number;
  time_to_first_token_s: number;
  preemptions: number;
  recomputed_tokens: number;
}

export class Request {
  age = 0;

  constructor(
    readonly handle: string,
    readonly said: ArrivedSaid,
  ) {}

  get id(): string {
    return this.said.request_id;
  }

  // As it arrived, or, when a stream opens, at the age it has now.
  declaration(ageTokens: number): RequestDeclaration {
    return {
      handle: this.handle,
      requestId: this.said.request_id,
      promptTokenIds: this.said.prompt_token_ids,
      promptTokens: this.said.prompt_token_ids.length,
      ageTokens,
      arrivalTimeS: this.said.arrival_time_s,
      priority: this.said.priority,
      tenant: this.said.tenant,
      maxTokens: this.said.max_tokens,
    };
  }
}

export class Living {
  private readonly byId = new Map<string, Request>();
  private newest = 0;
  // Handles of the batch of the newest step.
  running = new Set<string>();

  arrived(said: ArrivedSaid): Request {
    const request = new Request(String(++this.newest), said);
    this.byId.set(request.id, request);
    return request;
  }

  stepped(said: StepSaid): void {
    this.running = new Set();
    for (const each of said.running) {
      const request = this.get(each.request_id);
      request.age = each.age;
      this.running.add(request.handle);
    }
  }

  finished(id: string): Request {
    const request = this.get(id);
    this.byId.delete(id);
    this.running.delete(request.handle);
    return request;
  }

  get(id: string): Request {
    const request = this.byId.get(id);
    if (!request) throw new Error(`the engine speaks of ${id}, which is not alive`);
    return request;
  }

  withHandle(handle: string): Request | undefined {
    for (const request of this.byId.values()) if (request.handle === handle) return request;
    return undefined;
  }

  declarations(): RequestDeclaration[] {
    return [...this.byId.values()].map((request) => request.declaration(request.age));
  }
}
