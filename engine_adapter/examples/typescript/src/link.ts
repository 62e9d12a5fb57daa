// The life of one stream: open, exchange, break, wait, open again. Nobody ever waits for it.
import type { ClientDuplexStream, StatusObject } from "@grpc/grpc-js";
import { status as Code } from "@grpc/grpc-js";
import type { Epochs } from "./epochs";
import type { Epoch } from "./generated/trail/v1/Epoch";
import type { Request } from "./engine";

const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 2000;
// A stream that lived this long was a good one: the next wait starts from the shortest again.
const SETTLED_MS = 1000;

export abstract class Link<Question, Answer, End> {
  protected epoch: Epoch = {};
  protected declared: Request[] = [];
  protected ended: [Request, End][] = [];
  // Arrivals whose id is still among the ended: they wait for the message after that.
  private reused: Request[] = [];
  private call?: ClientDuplexStream<Question, Answer>;
  private isOpen = false;
  private step = 0;
  private waitMs = FIRST_WAIT_MS;

  constructor(private readonly epochs: Epochs) {}

  protected abstract start(): ClientDuplexStream<Question, Answer>;
  protected abstract opening(): Question;
  // Everything that waits as one message; undefined where nothing does.
  protected abstract take(): Question | undefined;
  protected abstract received(answer: Answer): void;
  protected abstract lost(): void;
  // Whether the service can be told more now; where not, what comes meanwhile is merged.
  protected maySend(): boolean {
    return true;
  }

  open(): void {
    const call = this.start();
    const startedMs = performance.now();
    // The opening names all who live now; what happens from here on is collected for this stream.
    this.call = call;
    this.epoch = this.epochs.next();
    this.clear();
    call.on("data", (answer: Answer) => {
      if (this.isOpen) this.received(answer);
      this.isOpen = true;
      this.flush();
    });
    call.on("drain", () => this.flush());
    call.on("error", () => {}); // `status` tells the same
    call.on("status", (status) => this.again(status, performance.now() - startedMs));
    call.write(this.opening());
  }

  arrived(request: Request): void {
    if (!this.call) return;
    const isEnding = this.ended.some(([ended]) => ended.id === request.id);
    (isEnding ? this.reused : this.declared).push(request);
    this.flush();
  }

  finished(request: Request, end: End): void {
    if (!this.call) return;
    const waited = [this.declared, this.reused].find((room) => room.includes(request));
    if (waited) waited.splice(waited.indexOf(request), 1);
    else this.ended.push([request, end]);
    this.flush();
  }

  protected get collecting(): boolean {
    return this.call !== undefined;
  }

  protected nextStep(): string {
    return String(++this.step);
  }

  // All but the reused are in a message.
  protected taken(): void {
    this.declared = this.reused;
    this.reused = [];
    this.ended = [];
  }

  protected isDeclaredLater(handle: string): boolean {
    return this.reused.some((request) => request.handle === handle);
  }

  protected flush(): void {
    while (this.call && this.isOpen && !this.call.writableNeedDrain && this.maySend()) {
      const message = this.take();
      if (message === undefined) return;
      this.call.write(message);
    }
  }

  protected clear(): void {
    this.declared = [];
    this.reused = [];
    this.ended = [];
  }

  private again(status: StatusObject, livedMs: number): void {
    this.call = undefined;
    this.isOpen = false;
    this.clear();
    this.lost();
    if (livedMs > SETTLED_MS) this.waitMs = FIRST_WAIT_MS;
    const asked = Number(status.metadata.get("grpc-retry-pushback-ms")[0] ?? 0);
    const jittered = this.waitMs * (0.5 + Math.random() / 2);
    this.waitMs = Math.min(2 * this.waitMs, LONGEST_WAIT_MS);
    console.error(`stream down: ${Code[status.code]}: ${status.details}`);
    setTimeout(() => this.open(), Math.max(jittered, asked));
  }
}
