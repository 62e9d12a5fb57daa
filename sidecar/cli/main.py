"""The command ``trail``. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    wait_s: Annotated[float, typer.Option(help="How long to wait for the predictor at the start.")] = 30.0,
) -> None:
    """Serves MODEL with vLLM, OpenAI-compatible, with the adapter attached. Any other flag goes to `vllm serve`."""
    from sidecar.cli.serve import ServeError, run_serve

    try:
        code = run_serve(model, context.args, engine_id, predictor, scheduler, artefact, layers, wait_s)
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


@app.command(context_settings=PASS_ON)
def predictor(context: typer.Context) -> None:
    """Runs the predictor service (--help lists its settings)."""
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


if __name__ == "__main__":
    sys.exit(app())
