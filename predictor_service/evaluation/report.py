"""An evaluation as JSON, as Markdown with figures beside it, and as one HTML file that holds everything."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from predictor_service.evaluation import plots
from predictor_service.evaluation.breakdown import Figures, Group
from predictor_service.evaluation.evaluation import RECIPE, SERVED, UNREFINED, Evaluation
from predictor_service.evaluation.metrics import Estimate
from predictor_service.evaluation.resampling import Sample

HEADS = {
    "mae_tokens": "MAE",
    "median_ae_tokens": "median error",
    "mae_of_mean_tokens": "MAE of the mean",
    "pinball_tokens": "pinball loss",
    "kendall_tau": "tau-b",
    "kendall_tau_of_mean": "tau-b of the mean",
    "kendall_tau_snapshot": "tau-b, snapshot",
    "coverage_80": "coverage",
    "ece": "calibration error",
    "ece_of_steps": "calibration error, steps equal",
}
IN_GROUPS = "mae_tokens", "median_ae_tokens", "kendall_tau", "coverage_80", "ece"
DEFINITIONS = """
Errors are in tokens of remaining length; the truth of a response that was cut is the cap, where the engine stops it.
Every request weighs the same, however many of its positions were drawn. Brackets hold 95 % intervals from drawing
*prompts* with replacement, so requests and positions of one prompt move together.

- **MAE**, **median error**: of the median, which is the point prediction.
- **tau-b**: Kendall's, over all pairs of positions, a pair weighing the product of its positions' weights;
  *snapshot*: over one random position a request, averaged over 8 draws.
- **coverage**: share of truths between p10 and p90, as served; 0.8 is meant.
- **calibration error**: mean of |share of truths below a quantile - its level| over the deciles of the posterior (over
  p10, median and p90 as served, where the posterior is not known). At any moment an engine holds long requests more
  often than short ones; *steps equal* weighs them so. No prediction is calibrated under both weightings.
- **pinball loss**: mean over p10, median and p90.

*classifier alone* is the prediction without refinement; *r1* and *r0* *counted down* are the predictions after prefill
and from the prompt less the age; *constant* is the median remaining length of the training rows. All are limited to
what the cap leaves.
"""


def write(evaluation: Evaluation, folder: Path, study: Mapping[str, Any] | None = None) -> Path:
    """Writes ``evaluation.json``, ``report.md``, ``report.html`` and ``figures/`` into ``folder``; the HTML's path.

    ``study`` is training's ``study.json``: its layer profile and learning curve are drawn too.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pictures = {name: _png(figure) for name, figure in _figures(evaluation, study or {})}
    for name, content in pictures.items():
        (folder / "figures" / f"{name}.png").write_bytes(content)
    (folder / "evaluation.json").write_text(json.dumps(as_json(evaluation), indent=1) + "\n")
    text = markdown(evaluation, list(pictures))
    (folder / "report.md").write_text(text)
    html = folder / "report.html"
    html.write_text(_html(text, pictures))
    return html


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All figures with their intervals, and how they came about."""
    return {
        "about": dict(evaluation.about),
        "n_requests": len(evaluation.requests),
        "n_positions": evaluation.positions,
        "methods": {name: method.figures for name, method in evaluation.methods.items()},
        "prompt": dict(evaluation.prompt),
        "groups": {
            by: [{"name": group.name, "requests": group.requests, **group.figures} for group in groups]
            for by, groups in evaluation.groups.items()
        },
    }


def markdown(evaluation: Evaluation, pictures: Sequence[str]) -> str:
    """The report; it shows ``figures/<name>.png`` for each of ``pictures``."""
    methods = {name: method.figures for name, method in evaluation.methods.items()}
    parts = [
        f"# Length predictions: {evaluation.about['artefact']}",
        f"{len(evaluation.requests)} requests that nobody trained on, {evaluation.positions} decode positions.",
        _table(["what", "value"], [[name, _plain(value)] for name, value in evaluation.about.items()]),
        "## Remaining length, against every baseline",
        _figures_table("method", methods, list(HEADS)),
        "## Total length, from the prompt alone",
        _figures_table("method", evaluation.prompt, ["mae_tokens", "median_ae_tokens", "kendall_tau"]),
    ]
    for by, groups in evaluation.groups.items():
        parts += [f"## By {by}", _groups_table(by, groups)]
    parts += ["## Figures", *(f"![{name}](figures/{name}.png)" for name in pictures)]
    return "\n\n".join([*parts, "## How to read it", DEFINITIONS.strip()]) + "\n"


def _figures(evaluation: Evaluation, study: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    methods, requests = evaluation.methods, evaluation.requests
    compared = {name: methods[name].predicted for name in (SERVED, UNREFINED, RECIPE) if name in methods}
    yield "predicted-versus-true", plots.heatmaps(compared, int(requests.length.max()))
    yield "mae-by-age", plots.mae_by_age({name: method.by_age for name, method in methods.items()})
    yield "coverage-by-age", plots.coverage_by_age(methods[SERVED].by_age)
    served, level_of = methods[SERVED].predicted, methods[SERVED].level_of
    if level_of is not None:
        sample = Sample.of(served.request, requests.prompt[served.request])
        yield "reliability", plots.reliability(sample, level_of)
    yield "lengths", plots.lengths(requests.length, requests.finished, evaluation.bins.edges)
    profile = [*study.get("profile", []), *study.get("profile_paper", [])]
    if profile:
        yield "layer-profile", plots.layer_profile(profile)
    if study.get("learning_curve"):
        yield "learning-curve", plots.learning_curve(study["learning_curve"], study.get("noise_floor"))


def _figures_table(head: str, rows: Mapping[str, Figures], keys: Sequence[str]) -> str:
    return _table(
        [head, *(HEADS[key] for key in keys)],
        [[name, *(number(key, figures.get(key)) for key in keys)] for name, figures in rows.items()],
    )


def _groups_table(by: str, groups: Sequence[Group]) -> str:
    return _table(
        [by, "requests", *(HEADS[key] for key in IN_GROUPS)],
        [[g.name, str(g.requests), *(number(key, g.figures.get(key)) for key in IN_GROUPS)] for g in groups],
    )


def number(key: str, estimate: Estimate | None) -> str:
    """A figure with its interval; empty where there is none."""
    if estimate is None:
        return ""
    digits = 1 if key.endswith("tokens") else 3
    return "{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".format(**estimate, digits=digits)


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _png(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _html(text: str, pictures: Mapping[str, bytes]) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)
    for name, content in pictures.items():
        body = body.replace(f"figures/{name}.png", "data:image/png;base64," + base64.b64encode(content).decode())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Length predictions</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:.25rem .5rem}"
        f"img{{max-width:100%}}</style>{body}</html>\n"
    )
