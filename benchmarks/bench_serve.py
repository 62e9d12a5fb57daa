"""Serving as vLLM's own load generator sees it: `vllm bench serve` against `vllm serve` and against `trail serve`.

    python -m benchmarks.serving --llm DIR --prompts FILE --prepare
    python -m benchmarks.bench_serve --llm DIR --prompts FILE --slots 64 --load 0.95 --out benchmarks/results/NAME.json

Both servers live at once, with the same flags, and are used in turn; which of them begins alternates. A run is one
process of the client: --seconds of Poisson arrivals, the answers' lengths the model's own up to --max-tokens, sampled
as the predictor was trained. Both sides of a repeat have the same prompts, arrivals and sampling seed. The rate is
--rate, or the share --load of what stock serves while every slot is taken, measured first by `--request-rate inf`.
The trail side is what users get: `trail serve` with the services' default policy. Written after each run.
Without --prompts: the demo's own.
"""

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, vllm_client
from benchmarks.gpu_engines import agent_statistics
from benchmarks.serving import PACKAGES, agent_changes
from benchmarks.unseen_prompts import ARTEFACT, TrainedWith
from benchmarks.vllm_client import METRICS, ClientError, Traffic
from benchmarks.vllm_servers import STOCK, TRAIL, Server, ServerError, Servers, ServerShape, running
from sidecar.cli.stack import StackError

CAPACITY_SEED = 10_000
TOLD = ("plans_applied", "fail_open_steps", "steps", "predictions_received", "row_records_dropped")
COLUMNS = ("mean", "p50", "p95", "p99")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON after each run, prints a table."""
    options = _options(argv)
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    drawn = TrainedWith.of(ARTEFACT)
    shape = ServerShape(
        options.llm, options.slots, options.model_tokens, max(options.step_tokens, options.model_tokens),
        int(options.kv_gib * 2**30), options.serve_flag,
    )  # fmt: skip
    logs = options.logs or options.out.parent / "logs"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="trail-") as scratch:
            texts, source = prompts(options.prompts)
            dataset = Path(scratch) / "prompts.jsonl"
            dataset.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
            traffic = Traffic(options.llm, dataset, options.max_tokens, drawn.temperature, drawn.top_p)
            with running(shape, logs, one_by_one=options.one_by_one) as servers:
                results = _Bench(servers, traffic, options, logs / "client.log", source).run()
    except KeyboardInterrupt:
        sys.exit("stopped; what was measured so far is written")
    except (ServerError, ClientError, StackError, ValueError) as error:
        sys.exit(f"bench_serve: {error}")
    print(table(results))


def prompts(path: Path | None) -> tuple[list[str], str]:
    """Texts, and where they are from.

    Raises ValueError where a line has none.
    """
    if path is None:
        packaged = resources.files("sidecar.cli.demo").joinpath("prompts.json")
        return json.loads(packaged.read_text()), "the demo's own"
    try:
        return [json.loads(line)["prompt"] for line in path.read_text().splitlines() if line], path.name
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: wanted is a JSON object with 'prompt' on each line ({error!r})") from None


@dataclass(slots=True)
class _Bench:
    servers: Servers
    traffic: Traffic
    options: argparse.Namespace
    log: Path
    source: str
    runs: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        options, both = self.options, [self.servers.stock, self.servers.trail]
        for server in both:
            # A full batch: kernels are compiled, streams are open, the scheduler knows the engine's pace.
            self._ask(server, 2 * options.slots, float("inf"), CAPACITY_SEED + 1)
        capacity_rps = None if options.rate else self._capacity_rps()
        rate_rps = options.rate if capacity_rps is None else round(options.load * capacity_rps, 3)
        requests = max(1, round(rate_rps * options.seconds))
        results: dict[str, Any] = {}
        for repeat in range(options.repeats):
            seed = options.seed + repeat
            for server in both if repeat % 2 == 0 else both[::-1]:
                self.runs.append(self._measured(server, requests, rate_rps, seed))
                results = self._results(capacity_rps, rate_rps, requests)
                machine.write(options.out, results)
                last = self.runs[-1]["figures"]
                print(f"{server.name}, seed {seed}: {requests} requests, mean E2EL {last['mean_e2el_ms']:.0f} ms, "
                      f"mean TTFT {last['mean_ttft_ms']:.0f} ms", file=sys.stderr, flush=True)  # fmt: skip
        return results

    def _capacity_rps(self) -> float:
        requests = self.options.capacity_requests or 8 * self.options.slots
        found = self._ask(self.servers.stock, requests, float("inf"), CAPACITY_SEED)
        capacity_rps = vllm_client.saturated_rps(found, self.options.slots)
        print(f"capacity of stock: {capacity_rps:.2f} requests/s", file=sys.stderr, flush=True)
        return capacity_rps

    def _ask(self, server: Server, requests: int, rate_rps: float, seed: int) -> dict[str, Any]:
        server.healthy()
        server.forget_prefixes()
        return vllm_client.run(self.traffic, server.port, requests, rate_rps, seed, self.log)

    def _measured(self, server: Server, requests: int, rate_rps: float, seed: int) -> dict[str, Any]:
        preempted = server.preemptions()
        before = agent_statistics(server.engine_id) if server.engine_id else {}
        found = self._ask(server, requests, rate_rps, seed)
        agent = agent_changes(before, agent_statistics(server.engine_id))["counters"] if before else {}
        return {
            "side": server.name,
            "seed": seed,
            "duration_s": round(found["duration"], 3),
            "completed": found["completed"],
            "preemptions": server.preemptions() - preempted,
            "agent": {name: agent[name] for name in TOLD if name in agent},
            "figures": vllm_client.figures(found),
            "requests": vllm_client.samples(found),
        }

    def _results(self, capacity_rps: float | None, rate_rps: float, requests: int) -> dict[str, Any]:
        options = self.options
        told = Traffic(
            Path(options.llm.resolve().name), Path("prompts.jsonl"), options.max_tokens,
            self.traffic.temperature, self.traffic.top_p,
        )  # fmt: skip
        return {
            "what": "vLLM's own client against vllm serve and trail serve, in turn; figures are the client's",
            **machine.provenance(*PACKAGES),
            "llm": options.llm.resolve().name,
            "prompts": self.source,
            "slots": options.slots,
            "capacity_rps": capacity_rps and round(capacity_rps, 3),
            "rate_rps": rate_rps,
            "requests": requests,
            "server_flags": list(self.servers.flags),
            "client": ["vllm", "bench", "serve", *told.arguments(0, requests, rate_rps, options.seed, Path("r.json"))],
            "summary": summarise(self.runs),
            "runs": self.runs,
        }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each figure's median over the repeats that both sides have, and trail's ratio to stock's with its range."""
    sides = {side: {run["seed"]: run for run in runs if run["side"] == side} for side in (STOCK, TRAIL)}
    seeds = sorted(sides[STOCK].keys() & sides[TRAIL].keys())
    if not seeds:
        return {}
    pairs = [(sides[STOCK][seed], sides[TRAIL][seed]) for seed in seeds]
    found: dict[str, Any] = {}
    for name in pairs[0][0]["figures"]:
        stock, trail = ([pair[i]["figures"][name] for pair in pairs] for i in (0, 1))
        ratios = np.divide(trail, stock)
        found[name] = {
            STOCK: round(float(np.median(stock)), 4),
            TRAIL: round(float(np.median(trail)), 4),
            "ratio": round(float(np.median(trail) / np.median(stock)), 4),
            "ratio_least": round(float(ratios.min()), 4),
            "ratio_most": round(float(ratios.max()), 4),
        }
    lengths = [np.equal(*(run["requests"]["output_tokens"] for run in pair)) for pair in pairs]
    return {
        "seeds": seeds,
        "equal_lengths": round(float(np.mean(np.concatenate(lengths))), 4),
        "preemptions": {side: [sides[side][seed]["preemptions"] for seed in seeds] for side in (STOCK, TRAIL)},
        "figures": found,
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: milliseconds of both sides, and the ratio with its range over the repeats."""
    summary = results["summary"]
    load = f" ({results['rate_rps'] / results['capacity_rps']:.2f} of stock's most)" if results["capacity_rps"] else ""
    lines = [
        f"{results['requests']} requests at {results['rate_rps']:g}/s{load}, {results['slots']} slots, "
        f"medians of {len(summary['seeds'])} repeats; {summary['equal_lengths']:.0%} of the answers equally long\n",
        "| | | stock | trail | ratio |",
        "|---|---|---|---|---|",
    ]
    for metric in METRICS:
        for figure in COLUMNS:
            label = f"{metric.upper()}, ms" if figure == COLUMNS[0] else ""
            lines.append(_row(label, figure, summary["figures"][f"{figure}_{metric}_ms"]))
    lines.append(_row("output tokens/s", "", summary["figures"]["output_tokens_per_s"]))
    return "\n".join(lines)


def _row(label: str, figure: str, found: dict[str, float]) -> str:
    spread = f"{found['ratio']:.2f} ({found['ratio_least']:.2f} to {found['ratio_most']:.2f})"
    return f"| {label} | {figure} | {found[STOCK]:.1f} | {found[TRAIL]:.1f} | {spread} |"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=Path, help="JSONL with `prompt`, as `benchmarks.serving --prepare` writes")
    parser.add_argument("--rate", type=float, help="requests a second, instead of --load")
    parser.add_argument("--load", type=float, default=0.95, help="share of what stock serves at most")
    parser.add_argument("--capacity-requests", type=int, help="to measure that with; default: eight times the slots")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which a run's requests arrive")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=400, help="of an answer")
    parser.add_argument("--model-tokens", type=int, default=2048, help="of prompt and answer")
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--kv-gib", type=float, default=8.0, help="KV memory of each server")
    parser.add_argument("--serve-flag", action="append", default=[], help="another flag of both servers, as --x=y")
    parser.add_argument("--one-by-one", action="store_true", help="start the servers in turn")
    parser.add_argument("--logs", type=Path, help="folder of all logs; default: beside --out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    options = parser.parse_args(argv)
    if importlib.util.find_spec("pandas") is None:
        parser.error("vLLM's client reads prompts with pandas: pip install pandas")
    if not (options.llm / "config.json").is_file():
        parser.error(f"--llm {options.llm}: no config.json there")
    for name in ("rate", "load", "seconds", "repeats", "slots", "max_tokens", "kv_gib"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: wanted is more than 0")
    return options


if __name__ == "__main__":
    main()
