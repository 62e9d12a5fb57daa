"""``python -m predictor_service.training``: each stage reads and writes one folder, so any can be run again."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from predictor_service.training.labels import log_edges

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
EDGES = 4, 1024  # width of the first bin and lower edge of the open one, tokens
Work = Annotated[Path, typer.Option(help="Folder that the stages share.")]
Llm = Annotated[Path, typer.Option(help="Hugging Face folder of the served LLM.")]
Bins = Annotated[int, typer.Option(help="Bins of remaining length, the open one included.")]


@app.command()
def convert(gguf: Path, llm: Path) -> None:
    """Turns a GGUF file into the Hugging Face folder that the other stages read."""
    from predictor_service.training.llm import convert_gguf

    convert_gguf(gguf, llm)


@app.command()
def responses(
    prompts: Annotated[Path, typer.Option(help="JSON list of {instruction, input}.")],
    llm: Llm,
    work: Work,
    samples: Annotated[int, typer.Option(help="Answers to each training prompt.")] = 3,
    max_tokens: int = 1024,
    validation: Annotated[int, typer.Option(help="Prompts to tune on.")] = 300,
    test: Annotated[int, typer.Option(help="Prompts to measure on.")] = 500,
    seed: int = 0,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that vLLM runs at once.")] = 512,
) -> None:
    """Samples the LLM's answers with vLLM: responses.npz."""
    from predictor_service.training.collect import (
        Sampling,
        chat_token_ids,
        read_prompts,
        sample_responses,
        split_prompts,
    )

    sampling = Sampling(max_tokens=max_tokens, samples=samples, seed=seed)
    ids = chat_token_ids(llm, read_prompts(prompts))
    split = split_prompts(len(ids), validation, test, seed)
    drawn = sample_responses(llm, ids, split, sampling, max_num_seqs=max_num_seqs, max_model_len=4096)
    work.mkdir(parents=True, exist_ok=True)
    drawn.save(work / "responses.npz")
    _note(work, "responses", prompts=prompts.name, sampling=asdict(sampling))


@app.command()
def classifier(
    llm: Llm,
    work: Work,
    layers: Annotated[str, typer.Option(help="Layers L whose hidden_states[L] are read.")] = "14,16,18,20",
    ages: Annotated[int, typer.Option(help="Ages looked at in each training response.")] = 32,
    bins: Bins = 24,
    widths: Annotated[str, typer.Option(help="Units of each hidden layer of the classifier.")] = "256,128",
    dropout: float = 0.4,
    epochs: int = 12,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Reads hidden states with transformers and fits the classifier: classifier.npz."""
    from predictor_service.training.collect import TEST, TRAIN, VALIDATION, Responses
    from predictor_service.training.fit import fit_classifier
    from predictor_service.training.networks import Recipe
    from predictor_service.training.states import read_states

    drawn = Responses.load(work / "responses.npz")
    recipe = Recipe(widths=_integers(widths), dropout=dropout, epochs=epochs, learning_rate=learning_rate, seed=seed)
    chosen = _integers(layers)
    training, validation, test = (
        read_states(llm, drawn, split, chosen, ages if split == TRAIN else None, seed)
        for split in (TRAIN, VALIDATION, TEST)
    )
    fitted = fit_classifier(training, validation, test, log_edges(bins, *EDGES), recipe)
    typer.echo(f"validation loss, nats: {[round(loss, 4) for loss in fitted.losses]}")
    fitted.save(work / "classifier.npz")
    _note(work, "classifier", layers=chosen, ages_per_response=ages, bins=bins, seed=seed, recipe=asdict(recipe))


@app.command()
def artefact(
    work: Work,
    out: Annotated[Path, typer.Option(help="Folder to write the artefact to.")],
    served_model: Annotated[str, typer.Option(help="Name of the LLM that it predicts for.")],
    prompt_buckets: int = 4096,
) -> None:
    """Fits the prompt predictor, tunes the refinement, measures, and writes the artefact."""
    from predictor_service.training.artefact import assemble
    from predictor_service.training.collect import Responses, Sampling
    from predictor_service.training.export import write
    from predictor_service.training.fit import Classifier

    notes = json.loads((work / "notes.json").read_text())
    fitted = notes["classifier"]["arguments"]
    made, tried = assemble(
        Responses.load(work / "responses.npz"),
        Classifier.load(work / "classifier.npz"),
        log_edges(fitted["bins"], *EDGES),
        Sampling(**notes["responses"]["arguments"]["sampling"]),
        name=out.name,
        served_model=served_model,
        layers=tuple(fitted["layers"]),
        buckets=prompt_buckets,
        stages=notes,
    )
    write(made, out)
    (work / "tried.json").write_text(json.dumps(tried, indent=1))
    typer.echo(json.dumps(made.metrics, indent=1))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _note(work: Path, stage: str, **arguments: Any) -> None:
    """Keeps how a stage was run, for the manifest."""
    from predictor_service.training.artefact import versions

    path = work / "notes.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    command = " ".join(["python -m predictor_service.training", *sys.argv[1:]])
    notes[stage] = {"command": command, "arguments": arguments, "versions": versions()}
    path.write_text(json.dumps(notes, indent=1))


if __name__ == "__main__":
    app()
