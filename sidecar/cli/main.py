"""The command ``trail``. Each command imports what it needs when it runs."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
SERVE = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    help="Schedules an LLM serving engine by predicted remaining length, from beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up(
    predictor_port: Annotated[int, typer.Option(help="TCP port of the predictor service.")] = 50061,
    scheduler_port: Annotated[int, typer.Option(help="TCP port of the scheduler service.")] = 50062,
    host: Annotated[str, typer.Option(help="Address that both listen on.")] = "127.0.0.1",
    redis_url: Annotated[str, typer.Option(help="Store to use; default: an embedded Valkey.")] = "",
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of predictor artefacts; default: the packaged ones.")
    ] = None,
) -> None:
    """Runs the store and both services in this terminal until Ctrl-C."""
    from sidecar.cli.up import run_up

    run_up(host, predictor_port, scheduler_port, redis_url or None, model_dir)


@app.command(context_settings=SERVE)
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model folder or name, as for `vllm serve`.")],
    engine_id: Annotated[str, typer.Option(help="Name of this engine at the services.")] = "engine-0",
    predictor: Annotated[str, typer.Option(help="Address of the predictor service.")] = "127.0.0.1:50061",
    scheduler: Annotated[str, typer.Option(help="Address of the scheduler service.")] = "127.0.0.1:50062",
    artefact: Annotated[str, typer.Option(help="Predictor artefact; default: the service's own.")] = "",
    layers: Annotated[
        str, typer.Option(help="Layers to tap, as 12,18; default: those of the artefact, asked of the predictor.")
    ] = "",
    rows: Annotated[
        Literal["hidden", "projected"] | None,
        typer.Option(
            help="What the engine sends: hidden states, or projected ones, which are shorter and say the same to this "
            "artefact alone; default: projected where that makes them four times as short."
        ),
    ] = None,
    tap_share: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1.0,
            help="Most of the engine's thread that shipping hidden states may take, where that thread is what holds "
            "the engine up: some steps ship nothing then; 1: every step ships.",
        ),
    ] = 0.02,
    wait_s: Annotated[float, typer.Option(help="How long to wait for the predictor at the start.")] = 30.0,
    agent_metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the agent's Prometheus metrics, on loopback; 0: off.")
    ] = 0,
) -> None:
    """Serves MODEL with vLLM, OpenAI-compatible, with the adapter attached. Any other flag goes to `vllm serve`."""
    from sidecar.cli.serve import run_serve
    from sidecar.cli.tapping import ServeError

    try:
        code = run_serve(
            model,
            context.args,
            engine_id,
            predictor,
            scheduler,
            artefact,
            layers,
            rows,
            tap_share,
            wait_s,
            agent_metrics_port,
        )
    except ServeError as error:
        typer.echo(f"trail serve: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model, the report and the plot.")] = Path("out/demo"),
    requests: Annotated[int, typer.Option(min=8, help="Requests an arm.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every arm, in turn.")] = 3,
    slots: Annotated[int, typer.Option(min=1, help="Requests that the engine runs at once.")] = 10,
    prompts: Annotated[
        Path | None, typer.Option(help="Alpaca-style JSON of prompts; default: ../shared/data, else our own.")
    ] = None,
) -> None:
    """Compares vLLM's own order with TRAIL's, on a real vLLM serving a real LLM, and draws the result."""
    from sidecar.cli.demo.run import DemoError, run_demo

    try:
        run_demo(out, requests, repeats, slots, prompts)
    except DemoError as error:
        typer.echo(f"trail demo: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def load(
    predictor: Annotated[
        str,
        typer.Option(help="Address of the predictor service; of several replicas dns:///NAME:PORT or IP:PORT,IP:PORT."),
    ] = "127.0.0.1:50061",
    scheduler: Annotated[str, typer.Option(help="Address of the scheduler service, likewise.")] = "127.0.0.1:50062",
    engines: Annotated[int, typer.Option(min=1, help="Simulated engines, each with an agent.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests that each engine runs at once.")] = 32,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that wait in each engine.")] = 8,
    dim: Annotated[int, typer.Option(min=0, help="Values of a row; 0: as the model says.")] = 0,
    step_ms: Annotated[float, typer.Option(min=0.1, help="Milliseconds of an engine's step.")] = 10.0,
    duration_s: Annotated[float, typer.Option(min=1, help="Seconds to measure, from when all are connected.")] = 30.0,
    output_tokens: Annotated[float, typer.Option(min=2, help="Mean length of an answer.")] = 200.0,
    model: Annotated[str, typer.Option(help="Predictor artefact; default: the service's own.")] = "",
    processes: Annotated[int, typer.Option(min=0, help="Processes to run engines in; 0: half of the cores.")] = 0,
    seed: Annotated[int, typer.Option(help="Of lengths, prompts and rows.")] = 0,
    prefix: Annotated[str, typer.Option(help="Of the engines' names; default: load- and what no other load has.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Loads running services with simulated engines; says how fast and fresh their predictions and plans are."""
    from sidecar.cli.load.command import run_load
    from sidecar.cli.load.options import LoadOptions
    from sidecar.cli.load.run import LoadError, default_processes

    options = LoadOptions(
        predictor, scheduler, engines, requests, waiting, dim, step_ms, duration_s, output_tokens, model,
        processes=min(processes, engines) or default_processes(engines), seed=seed,
        prefix=prefix or f"load-{secrets.token_hex(3)}",
    )  # fmt: skip
    try:
        run_load(options, as_json=as_json)
    except (LoadError, ValueError) as error:
        typer.echo(f"trail load: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def evaluate(
    artefact: Annotated[Path, typer.Option(help="Folder of the predictor artefact.")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder of the LLM that it predicts for.")],
    prompts: Annotated[Path, typer.Option(help='Prompts that nobody has seen: {"prompt": ...} a line.')],
    max_prompts: Annotated[int, typer.Option(min=2, help="Prompts to take, drawn by the seed.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the prompts, the responses and the positions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Cap of every response, tokens.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Of the sampling.")] = 0.95,
    out: Annotated[Path, typer.Option(help="Folder for the responses and the report.")] = Path("out/evaluate"),
    baseline: Annotated[
        Path | None, typer.Option(help="Artefact of the paper's recipe; default: ARTEFACT-trail-recipe.")
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="Address of a predictor service that has the artefact; default: one of our own.")
    ] = "",
    redis_url: Annotated[str, typer.Option(help="Store of that service, to read posteriors from.")] = "",
    template: Annotated[str, typer.Option(help="What a base model is given, with {prompt} in it.")] = "",
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a response of a base model.")] = None,
    backend: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="What draws the responses.")
    ] = "auto",
    study: Annotated[Path | None, typer.Option(help="Training's study.json, to draw in the report.")] = None,
) -> None:
    """Measures a predictor on responses of its LLM to new prompts, through the real service, and writes a report."""
    try:
        from predictor_service.evaluation import command
        from predictor_service.evaluation.evaluation import SERVED
        from predictor_service.evaluation.service import Address
        from predictor_service.training.generation import Sampling
        from sidecar.cli.simulate.confusion_fit import write_confusion
    except ImportError as error:
        typer.echo(f"trail evaluate: {error}: pip install 'trail-sidecar[train]'", err=True)
        raise typer.Exit(2) from None
    sampling = Sampling(temperature, top_p, max_tokens, seed=seed, stop=tuple(stop or ()))
    service = Address(predictor, redis_url or None) if predictor else None
    options = command.Options(
        artefact, model, prompts, max_prompts, sampling, out, baseline, service, template or None, backend, study
    )
    try:
        evaluation = command.main(options, as_json=as_json)
        write_confusion(out, evaluation.methods[SERVED].predicted, evaluation.r0)
    except command.EvaluateError as error:
        typer.echo(f"trail evaluate: {error}", err=True)
        raise typer.Exit(1) from None


@app.command(context_settings=PASS_ON)
def simulate(context: typer.Context) -> None:
    """Compares scheduling policies on a simulated engine (--help lists its options)."""
    from sidecar.cli.simulate.command import app

    app(context.args, prog_name="trail simulate")


@app.command(context_settings=PASS_ON)
def tune(context: typer.Context) -> None:
    """Finds settings of the scheduler for your load and memory by simulation (--help lists its options)."""
    from sidecar.cli.tune.command import app

    app(context.args, prog_name="trail tune")


@app.command(context_settings=PASS_ON)
def ab(context: typer.Context) -> None:
    """Compares schedulers on live traffic: experiments (--help lists what to do with them)."""
    try:
        from sidecar.cli.ab.command import app
        from sidecar.cli.ab.errors import AbError
    except ImportError as error:
        typer.echo(f"trail ab: {error}: pip install 'trail-sidecar[ab]'", err=True)
        raise typer.Exit(2) from None
    try:
        app(context.args, prog_name="trail ab")
    except AbError as error:
        typer.echo(f"trail ab: {error}", err=True)
        raise typer.Exit(2) from None


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Makes a length predictor for your own LLM (--help lists the stages)."""
    try:
        from predictor_service.training.__main__ import main
    except ImportError as error:
        typer.echo(f"trail train: {error}: pip install 'trail-sidecar[train]'", err=True)
        raise typer.Exit(2) from None
    main(context.args)


@app.command()
def theory(
    load: Annotated[str, typer.Option(help="Arrival rate times mean size; several with commas.")] = "0.5,0.8,0.9",
    c: Annotated[
        str, typer.Option("--c", help="Limits of preemption, 0 to 1; several with commas.")
    ] = "0,0.2,0.5,0.8,1",
    predictions: Annotated[
        str, typer.Option(help="perfect, exponential (around the size) or lognormal:SIGMA.")
    ] = "exponential",
    sizes: Annotated[str, typer.Option(help="exponential or lognormal:SIGMA; the mean is 1.")] = "exponential",
    requests: Annotated[
        int, typer.Option(help="Requests to simulate for each load and c; 0: theory only.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it to this .png, .svg or .pdf.")] = None,
) -> None:
    """Says what limiting preemption does to mean response time: M/G/1 by formula, beside an exact simulation."""
    try:
        from sidecar.cli.theory import TheoryError, run_theory
    except ImportError as error:
        typer.echo(f"trail theory: {error}: pip install 'trail-sidecar[train]'", err=True)
        raise typer.Exit(2) from None
    try:
        run_theory(load, c, sizes, predictions, requests, seed, as_json, plot)
    except TheoryError as error:
        typer.echo(f"trail theory: {error}", err=True)
        raise typer.Exit(2) from None


@app.command(context_settings=PASS_ON)
def top(context: typer.Context) -> None:
    """Shows engines, queues, predictions, plans and arms in the terminal, live (--help lists its options)."""
    from sidecar.cli.top.command import app

    app(context.args, prog_name="trail top")


@app.command()
def conformance(
    target: Annotated[str, typer.Argument(metavar="HOST:PORT|adapter", help="A service, or `adapter`.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="With `adapter`: what starts it.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="A check to play; again for more.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="How long to wait for what should happen.")] = 20.0,
    max_rows: Annotated[int, typer.Option(min=1, help="The service's max_rows_per_step.")] = 4096,
    max_requests: Annotated[int, typer.Option(min=1, help="The service's max_requests_per_engine.")] = 16384,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Checks whether a service, or an engine's adapter, keeps the contract: status 0 where it does, 1 where not.

    An adapter finds the services' addresses in $TRAIL_PREDICTOR and $TRAIL_SCHEDULER, reads events of an engine as JSON
    lines, and answers each `schedule` with one line; docs/contract.md has them all.
    """
    from sidecar.cli.conformance.command import MistakeError, run_conformance
    from sidecar.cli.conformance.service.channel import Limits

    try:
        passed = run_conformance(target, command or [], only or [], timeout_s, Limits(max_rows, max_requests), as_json)
    except MistakeError as error:
        typer.echo(f"trail conformance: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if passed else 1)


@app.command(context_settings=PASS_ON)
def predictor(context: typer.Context) -> None:
    """Runs the predictor service (--help lists its settings). `check ARTEFACT`: tells what it is and if it is good;
    `sign ARTEFACT`: signs it."""
    if context.args[:1] == ["check"]:
        from predictor_service.check import app as check

        check(context.args[1:], prog_name="trail predictor check")
    elif context.args[:1] == ["sign"]:
        from predictor_service.sign import app as sign

        sign(context.args[1:], prog_name="trail predictor sign")
    else:
        from predictor_service.main import main

        main(context.args)


@app.command(context_settings=PASS_ON)
def scheduler(context: typer.Context) -> None:
    """Runs the scheduler service (--help lists its settings)."""
    from scheduler_service.main import main

    main(context.args)


@app.command(context_settings=PASS_ON)
def agent(context: typer.Context) -> None:
    """Runs the agent beside an engine that `trail serve` did not start (--help lists its settings)."""
    from engine_adapter.agent.__main__ import main

    main(context.args)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Of the client that the token makes known.")],
    out: Annotated[Path, typer.Option(help="New file for the token, for you alone.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="An engine that the client may use, or a pattern, as team-a-*.")
    ] = None,
    admin: Annotated[bool, typer.Option(help="The client may change policies and run experiments.")] = False,
) -> None:
    """Makes a bearer token; prints what belongs into the services' access file, which knows only its hash."""
    from sidecar.cli.token import new_token

    try:
        typer.echo(new_token(name, out, engine or [], admin=admin))
    except OSError as error:
        typer.echo(f"trail token: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def health(
    targets: Annotated[
        list[str],
        typer.Argument(help="Addresses of services, as HOST:PORT; default: $TRAIL_HEALTH.", envvar="TRAIL_HEALTH"),
    ],
    timeout_s: Annotated[float, typer.Option(min=0.1, help="How long an answer may take.")] = 3.0,
) -> None:
    """Asks services whether they serve: status 0 where all do, 1 otherwise, with one line for each."""
    from sidecar.cli.health import verdict

    verdicts = [verdict(target, timeout_s) for target in targets]
    for serving, line in verdicts:
        typer.echo(line, err=not serving)
    raise typer.Exit(0 if all(serving for serving, _ in verdicts) else 1)


if __name__ == "__main__":
    sys.exit(app())
