"""``trail train``: from a model folder and prompts to a length predictor that serves.

Each stage reads and writes one folder (--work), so a stopped one goes on where it was and any can be run again;
`run` does them all.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
console = Console(stderr=True)

Llm = Annotated[Path, typer.Option(help="Hugging Face folder of the served LLM.")]
Work = Annotated[Path, typer.Option(help="Folder that the stages share.")]
PromptFiles = Annotated[
    list[Path], typer.Option(help="JSON list or JSONL with `prompt`, `instruction` or `question`; repeatable.")
]
HeldOut = Annotated[
    list[str], typer.Option(help="Data sets that prompts may be held out of (a file's name, or its folder's); all.")
]
Layers = Annotated[str, typer.Option(help="Layers L whose hidden_states[L] are read, as 14,18; default: what wins.")]
MemoryShare = Annotated[
    float | None, typer.Option(help="Share of the (GPU's) memory that vLLM takes; 0.8 on a GPU, 0.2 without.")
]
BackendName = Annotated[str, typer.Option(help="What draws responses: vllm, transformers or auto.")]
Bins = Annotated[int, typer.Option(help="Bins of remaining length, the open one included.")]
Seed = Annotated[int, typer.Option(help="Of the split, the sampling and the fits.")]
ServedModel = Annotated[str, typer.Option(help="Name of the LLM, as the manifest gives it.")]
MiniLm = Annotated[Path | None, typer.Option(help="Hugging Face folder of MiniLM, to fit a text encoder too.")]


@app.command()
def convert(gguf: Path, llm: Path) -> None:
    """Turns a GGUF file into the Hugging Face folder that the other stages read."""
    from predictor_service.training.llm import convert_gguf

    convert_gguf(gguf, llm)


@app.command()
def collect(
    llm: Llm,
    work: Work,
    prompts: PromptFiles,
    held_out_from: HeldOut = [],  # noqa: B006  # typer's way to say a repeatable option
    samples: Annotated[int, typer.Option(help="Responses to a training prompt.")] = 3,
    held_out_samples: Annotated[int, typer.Option(help="Responses to a held-out prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="As you serve.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="As you serve.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Cap of a response.")] = 1024,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are an error, or skipped.")] = 1024,
    template: Annotated[str | None, typer.Option(help="For base models: text with {prompt} in it.")] = None,
    stop: Annotated[list[str], typer.Option(help="For base models: ends a response; repeatable.")] = [],  # noqa: B006
    validation_share: Annotated[float, typer.Option(help="Share of prompts to tune on.")] = 0.1,
    test_share: Annotated[float, typer.Option(help="Share of prompts to measure on.")] = 0.15,
    skip_bad: Annotated[bool, typer.Option(help="Leave out broken or over-long prompts instead of stopping.")] = False,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that vLLM runs at once.")] = 512,
    memory_share: MemoryShare = None,
    backend: BackendName = "auto",
    shard_responses: Annotated[int, typer.Option(help="Responses a shard; a stopped shard is drawn again.")] = 8192,
    part: Annotated[
        str, typer.Option(help="As 2/3: every third shard from the second on, for processes that share WORK.")
    ] = "1/1",
    seed: Seed = 0,
) -> None:
    """Draws the LLM's responses: WORK/prompts.jsonl and WORK/responses/."""
    from predictor_service.training.collect import Sampling
    from predictor_service.training.collect import collect as draw
    from predictor_service.training.prompts import Shares, read_prompts, split_prompts

    with _clear_errors():
        read = read_prompts(prompts, llm=llm, max_prompt_tokens=max_prompt_tokens, template=template, skip_bad=skip_bad)
        for reason in read.skipped:
            console.print(f"left out: {reason}", highlight=False)
        shares = Shares(validation_share, test_share, frozenset(held_out_from) or None, seed)
        split = split_prompts(read.prompts, shares)
        sampling = Sampling(temperature, top_p, max_tokens, samples, seed, held_out_samples, tuple(stop))
        engine = _engine(backend, max_num_seqs, max_prompt_tokens + max_tokens, memory_share)
        mine = _part(part)
        drawn = draw(
            work,
            llm,
            read.prompts,
            split,
            sampling,
            shard_responses=shard_responses,
            part=mine,
            console=console,
            **engine,
        )
    _note(
        work,
        "collect",
        prompts=[path.name for path in prompts],
        sampling=asdict(sampling),
        shares=asdict(shares),
        shard_responses=shard_responses,
        backend=backend,
    )
    console.print(f"{len(drawn.prompt)} responses, {drawn.finished.mean():.1%} ended before the cap")


@app.command()
def noise(
    llm: Llm,
    work: Work,
    positions: Annotated[int, typer.Option(help="Places in each test response.")] = 4,
    draws: Annotated[int, typer.Option(help="Times that the rest is drawn from each place.")] = 5,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that vLLM runs at once.")] = 512,
    memory_share: MemoryShare = None,
    backend: BackendName = "auto",
    seed: Seed = 0,
) -> None:
    """Draws the rest of test responses again, from the same prefixes: what no predictor can know (WORK/noise.npz)."""
    from predictor_service.training.collect import Responses
    from predictor_service.training.noise import draw_again

    with _clear_errors():
        sampling, responses = _sampling(work), Responses.load(work)
        longest = int(responses.prompt_tokens.max()) + sampling.max_tokens
        engine = _engine(backend, max_num_seqs, longest, memory_share)
        draw_again(llm, responses, sampling, positions, draws, seed, work / "noise.npz", console, **engine)


@app.command()
def fit(
    llm: Llm,
    work: Work,
    layers: Layers = "",
    most_layers: Annotated[int, typer.Option(help="Layers that may be read together, the best alone first.")] = 8,
    bins: Bins = 24,
    ages: Annotated[int, typer.Option(help="Ages looked at in each training response.")] = 24,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = 12,
    search: Annotated[bool, typer.Option(help="Try bins, layers, losses and sizes; keep what wins.")] = True,
    seed: Seed = 0,
) -> None:
    """Profiles the layers and fits the classifiers: WORK/study.json, classifier.npz, paper.npz."""
    from predictor_service.training.networks import Recipe
    from predictor_service.training.pipeline import Plan, Stage

    chosen = tuple(int(part) for part in layers.split(",") if part)
    plan = Plan(chosen, most_layers, bins, ages, recipe=Recipe(epochs=epochs, seed=seed), search=search, seed=seed)
    with _clear_errors():
        Stage(llm, work, _sampling(work).max_tokens, plan, _say).run()
    _note(work, "fit", plan=asdict(plan))


@app.command()
def prompts(
    llm: Llm,
    work: Work,
    kinds: Annotated[str, typer.Option(help="Prompt predictors to fit, as counts,tokens; all: every kind.")] = "tokens",
    minilm: MiniLm = None,
    bins: Bins = 24,
    seed: Seed = 0,
) -> None:
    """Fits the prompt stage: WORK/prompt/KIND/, each ready for an artefact."""
    from predictor_service.training.collect import PROMPTS_FILE, Responses
    from predictor_service.training.labels import equal_edges, log_edges
    from predictor_service.training.pipeline import PAPER_BINS
    from predictor_service.training.prompt_fit import fit_prompts
    from predictor_service.training.prompt_recipes import KINDS
    from predictor_service.training.prompts import PromptTable
    from predictor_service.training.stored import PAPER_PROMPT, save_prompt_stage
    from predictor_service.training.study import FIRST_BIN_TOKENS

    chosen = KINDS if kinds == "all" else tuple(kinds.split(","))
    with _clear_errors():
        edges = log_edges(bins, FIRST_BIN_TOKENS, _sampling(work).max_tokens)
        known = (work / PROMPTS_FILE).exists()
        texts = PromptTable.load(work / PROMPTS_FILE).text if known else _nothing(Responses.load(work))
        fits = fit_prompts(Responses.load(work), texts, edges, llm, minilm, chosen, seed, progress=_say)
        for kind, fitted in fits.items():
            save_prompt_stage(work / "prompt" / kind, fitted)
        # The artefact of the paper's recipe has bins of its own.
        paper = equal_edges(PAPER_BINS, _sampling(work).max_tokens)
        baseline = fit_prompts(Responses.load(work), texts, paper, llm, None, ("counts",), seed, progress=_say)
        save_prompt_stage(work / PAPER_PROMPT, baseline["counts"])
    _note(work, "prompts", kinds=chosen, bins=bins, seed=seed)


@app.command()
def recorded(
    work: Work,
    recordings: Annotated[Path, typer.Option(help="What `trail predictor --record-dir` recorded.")],
    engine_id: Annotated[list[str], typer.Option(help="Engine whose outcomes are read; repeatable.")],
    redis_url: Annotated[str, typer.Option(help="Store of the services, which holds the outcomes.")],
    max_tokens: Annotated[int, typer.Option(help="Cap of requests that carried none.")] = 1024,
    bins: Bins = 24,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = 12,
    seed: Seed = 0,
) -> None:
    """In place of collect and fit: learns from what a running service received, joined with how requests ended."""
    from redis import Redis

    from predictor_service.training.collect import RESPONSES_FOLDER, Sampling
    from predictor_service.training.networks import Recipe
    from predictor_service.training.pipeline import Plan, fit_recordings
    from predictor_service.training.prompts import Shares
    from predictor_service.training.recordings import load_recordings, read_outcomes
    from predictor_service.training.shards import Shards

    plan = Plan(bins=bins, recipe=Recipe(epochs=epochs, seed=seed), search=False, seed=seed)
    with _clear_errors():
        with Redis.from_url(redis_url) as client:
            outcomes = [outcome for engine in engine_id for outcome in read_outcomes(client, engine)]
        found = load_recordings(recordings, outcomes, Shares(seed=seed), max_tokens=max_tokens)
        _say(f"cap: {found.max_tokens} tokens")
        for reason, count in found.left_out.items():
            _say(f"left out: {count} requests, {reason}")
        Shards(work / RESPONSES_FOLDER, {"recordings": str(recordings), "seed": seed}).save(0, vars(found.responses))
        fit_recordings(work, found, found.max_tokens, plan, _say)
    # How the clients sampled is theirs to know; the cap is all that later stages need.
    sampling = asdict(Sampling(max_tokens=found.max_tokens, seed=seed))
    _note(work, "collect", sampling=sampling, recordings=str(recordings))
    _note(work, "fit", plan=asdict(plan))


@app.command()
def artefact(
    work: Work,
    out: Annotated[Path, typer.Option(help="Folder to write the artefact to; its name is the folder's.")],
    served_model: ServedModel,
    prompt: Annotated[str, typer.Option(help="Which fitted prompt predictor it holds.")] = "tokens",
) -> None:
    """Tunes the refinement and writes the artefact, and beside it the paper's recipe as OUT-trail-recipe."""
    from predictor_service.training.artefact import About, write_all

    with _clear_errors():
        paths = write_all(work, out, About(out.name, served_model, _notes(work)), prompt, _sampling(work))
    for path in paths:
        console.print(f"wrote {path}", highlight=False)


@app.command()
def split(artefact: Annotated[Path, typer.Argument(help="Folder of a written artefact.")]) -> None:
    """Gives an artefact the files for projected rows, which `artefact` writes since there are such rows."""
    from predictor_service.training.split import split as cut

    with _clear_errors():
        projection = cut(artefact)
    console.print(f"wrote projection {projection} to {artefact}", highlight=False)


def _part(text: str) -> tuple[int, int]:
    """(2, 3) of "2/3"."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise ValueError(f"part: {text!r} is not I/N with I from 1 to N, as 2/3")
    return int(number), int(of)


def _nothing(responses: Any) -> list[str]:
    """Recordings hold no texts, only ids: an empty one for each prompt."""
    return [""] * (int(responses.prompt.max()) + 1)


def _say(text: str) -> None:
    console.print(text, highlight=False)


def _engine(backend: str, max_num_seqs: int, max_model_len: int, memory_share: float | None) -> dict[str, Any]:
    """Arguments of what draws responses: ``backend`` and, for vLLM, the engine's own."""
    import importlib.util

    import torch

    if backend not in ("auto", "vllm", "transformers"):
        raise ValueError(f"backend: {backend!r} is none of auto, vllm, transformers")
    if backend == "transformers" or (backend == "auto" and importlib.util.find_spec("vllm") is None):
        return {"backend": "transformers"}
    cuda = torch.cuda.is_available()
    return {
        "backend": "vllm",
        "max_num_seqs": max_num_seqs,
        "max_model_len": max_model_len,
        "gpu_memory_utilization": memory_share or (0.8 if cuda else 0.2),
        # Compiling pays only where there is much to draw.
        "enforce_eager": not cuda,
    }


def _sampling(work: Path) -> Any:
    """How the responses in ``work`` were drawn. Raises ValueError where not all of them are there."""
    from predictor_service.training.collect import Sampling
    from predictor_service.training.unfinished import unfinished

    notes = _notes(work)
    problem = unfinished(work, noted="collect" in notes)
    if problem:
        raise ValueError(problem)
    if "collect" not in notes:
        raise ValueError(f"{work}: nothing was collected here (`trail train collect`)")
    kept = notes["collect"]["arguments"]["sampling"]
    return Sampling(**kept | {"stop": tuple(kept["stop"])})


@contextmanager
def _clear_errors() -> Iterator[None]:
    """One line instead of a traceback for what the user can mend."""
    from predictor_service.training.shards import ShardError

    try:
        yield
    except (ValueError, OSError, ShardError) as error:
        console.print(f"trail train: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _notes(work: Path) -> dict[str, Any]:
    path = work / "notes.json"
    notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return notes


def _note(work: Path, stage: str, **arguments: Any) -> None:
    """Keeps how a stage was run, for the manifest."""
    from predictor_service.training.artefact import versions

    told = sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:]
    command = " ".join(["trail train", *told])
    notes = _notes(work) | {stage: {"command": command, "arguments": arguments, "versions": versions()}}
    (work / "notes.json").write_text(json.dumps(notes, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


@app.command()
def run(
    llm: Llm,
    prompts_from: PromptFiles,
    out: Annotated[Path, typer.Option(help="Folder to write the artefact to; its name is the folder's.")],
    served_model: ServedModel,
    work: Work = Path("out/train"),
    held_out_from: HeldOut = [],  # noqa: B006
    samples: Annotated[int, typer.Option(help="Responses to a training prompt.")] = 3,
    temperature: Annotated[float, typer.Option(help="As you serve.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="As you serve.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Cap of a response.")] = 1024,
    template: Annotated[str | None, typer.Option(help="For base models: text with {prompt} in it.")] = None,
    stop: Annotated[list[str], typer.Option(help="For base models: ends a response; repeatable.")] = [],  # noqa: B006
    layers: Layers = "",
    bins: Bins = 24,
    search: Annotated[bool, typer.Option(help="Try bins, layers, losses and sizes; keep what wins.")] = True,
    prompt: Annotated[str, typer.Option(help="Prompt predictor to fit.")] = "tokens_ranked",
    memory_share: MemoryShare = None,
    backend: BackendName = "auto",
    seed: Seed = 0,
) -> None:
    """Everything: collect, fit, prompts, artefact. A stopped run goes on where it was."""
    collect(
        llm, work, prompts_from, held_out_from, samples,
        temperature=temperature, top_p=top_p, max_tokens=max_tokens, template=template, stop=stop,
        memory_share=memory_share, backend=backend, seed=seed,
    )  # fmt: skip
    fit(llm, work, layers, bins=bins, search=search, seed=seed)
    prompts(llm, work, prompt, bins=bins, seed=seed)
    artefact(work, out, served_model, prompt)


def main(arguments: list[str]) -> None:
    """Runs ``trail train`` with the arguments after these words."""
    app(arguments, prog_name="trail train")


if __name__ == "__main__":
    app()
