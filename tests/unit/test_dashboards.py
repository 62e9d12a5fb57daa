"""Dashboards as Grafana reads them."""

import json

import pytest

from deploy.grafana.generate import DASHBOARDS, FOLDER
from deploy.grafana.panels import to_json


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_dashboard_is_the_generated_one(name: str) -> None:
    assert (FOLDER / name).read_text() == to_json(DASHBOARDS[name]), "python -m deploy.grafana.generate"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_and_their_queries_are_told_apart_and_explained(name: str) -> None:
    panels = json.loads((FOLDER / name).read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


def test_there_is_no_other_dashboard() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(DASHBOARDS)
