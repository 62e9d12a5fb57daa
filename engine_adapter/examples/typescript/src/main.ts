// An adapter between an engine and the services of trail.v1. The engine speaks JSON lines, as docs/contract.md says.
import { createInterface } from "node:readline";
import { Living } from "./engine";
import { Epochs } from "./epochs";
import { PlanKeeper } from "./plan";
import { PredictorLink } from "./predictor";
import { SchedulerLink } from "./scheduler";

const PREDICTOR = process.env.TRAIL_PREDICTOR ?? "127.0.0.1:50061";
const SCHEDULER = process.env.TRAIL_SCHEDULER ?? "127.0.0.1:50062";

async function main(): Promise<void> {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const engine = JSON.parse((await lines.next()).value);
  const living = new Living();
  const plans = new PlanKeeper(living);
  const epochs = new Epochs();
  const predictor = new PredictorLink(PREDICTOR, epochs, engine, living);
  const scheduler = new SchedulerLink(SCHEDULER, epochs, engine, living, plans);
  predictor.open();
  scheduler.open();
  for await (const line of { [Symbol.asyncIterator]: () => lines }) {
    const said = JSON.parse(line);
    if (said.event === "schedule") {
      process.stdout.write(`${JSON.stringify(plans.decide())}\n`);
    } else if (said.event === "arrived") {
      const request = living.arrived(said);
      predictor.arrived(request);
      scheduler.arrived(request);
    } else if (said.event === "step") {
      living.stepped(said);
      predictor.stepped(said);
      scheduler.stepped(said);
    } else if (said.event === "finished") {
      const request = living.finished(said.request_id);
      predictor.finished(request, said);
      scheduler.finished(request, said);
    }
  }
  process.exit(0);
}

void main();
