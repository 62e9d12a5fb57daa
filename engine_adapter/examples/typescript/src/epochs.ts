// One random incarnation for the life of this process, a counter that rises with each stream.
import { randomBytes } from "node:crypto";
import type { Epoch } from "./generated/trail/v1/Epoch";

export class Epochs {
  private readonly incarnation = (randomBytes(8).readBigUInt64LE() || 1n).toString();
  private counter = 0;

  next(): Epoch {
    return { incarnation: this.incarnation, counter: String(++this.counter) };
  }
}
