"""Writes the dashboards: `python -m deploy.grafana.generate`."""

from pathlib import Path

from deploy.grafana.experiment import EXPERIMENT
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.panels import to_json
from deploy.grafana.predictor import PREDICTOR
from deploy.grafana.scheduler import SCHEDULER

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {f"{page.uid}.json": page for page in (OVERVIEW, PREDICTOR, SCHEDULER, EXPERIMENT)}


def main() -> None:
    """Replaces the files in the folder."""
    for name, page in DASHBOARDS.items():
        (FOLDER / name).write_text(to_json(page))


if __name__ == "__main__":
    main()
