"""Options of load and engine that more than one command has, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.simulate.prediction_names import KNOWN

TraceName = Annotated[
    str,
    typer.Option(
        help="Azure's CSV, Mooncake's JSON lines or a CSV of arrival_s,prompt_tokens,output_tokens; or "
        "poisson:LENGTHS[?cv=3], gamma:LENGTHS:CV, burst:LENGTHS with LENGTHS alpaca or a trace file."
    ),
]
Slots = Annotated[int, typer.Option(help="Requests that run at once.")]
KvBlocks = Annotated[int | None, typer.Option(help="Default: plenty.")]
BlockTokens = Annotated[int, typer.Option(help="Tokens a KV block.")]
TokenBudget = Annotated[int, typer.Option(help="Tokens a step.")]
PredictionsName = Annotated[str, typer.Option(help=KNOWN + ".")]
Seeds = Annotated[int, typer.Option(help="Repeats, seeds from 0.")]
DurationS = Annotated[float | None, typer.Option(help="Seconds of arrivals; default: the whole trace, else 60.")]
StepMs = Annotated[float | None, typer.Option(help="Every step takes as long; default: 5.")]
StepTimeFile = Annotated[
    Path | None,
    typer.Option(help="JSON of a_s to f_s; or steps to fit: batch,prefill_tokens,kv_tokens,duration_s."),
]
Jobs = Annotated[int, typer.Option(help="Processes; 0: as many as there are cores.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
