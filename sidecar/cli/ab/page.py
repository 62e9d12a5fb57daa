"""One page about an experiment, for those who were not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from scheduler_service.experiments.analysis.pairs import Block
from scheduler_service.experiments.analysis.verdict import Verdict
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES
from sidecar.cli.ab import plots
from sidecar.cli.ab.errors import AbError
from sidecar.cli.ab.times import clock, duration
from sidecar.cli.ab.words import effect_text, headline, range_text
from trail.v1 import experiment_pb2

TEMPLATE = "report.html.j2"


def write_page(
    path: Path,
    design: Design,
    found: experiment_pb2.GetExperimentResponse,
    blocks: Sequence[Block],
    judged: Sequence[Verdict],
) -> None:
    """Needs nothing but itself: styles and drawings are in it. Raises AbError where it cannot be written."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template(TEMPLATE).render(
        design=design,
        experiment=found.experiment,
        state=experiment_pb2.ExperimentState.Name(found.experiment.state).removeprefix("EXPERIMENT_STATE_").lower(),
        judged=judged,
        blocks=blocks,
        shadows=found.shadows,
        figures=FIGURES,
        headline=headline,
        effect_text=effect_text,
        range_text=range_text,
        clock=clock,
        duration=duration,
        over_time=lambda verdict: Markup(plots.over_time(design, verdict)),  # noqa: S704
        forest=lambda verdict: Markup(plots.forest(verdict)),  # noqa: S704
        by_block=lambda: Markup(plots.by_block(design, blocks)),  # noqa: S704
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise AbError(f"--out {path}: {error.strerror}") from None
