"""Every alert is explained and tested."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def sections() -> dict[str, list[str]]:
    """Cells behind each alert's name in the table."""
    lines = (ROOT / "docs" / "alerts.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| <a id=")]
    return {cells[0]: cells[1:] for cells in rows}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_happened_what_goes_on_and_what_to_do_and_fires_in_a_test(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    anchor = name.lower()
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{anchor}"
    cells = sections()[f'<a id="{anchor}"></a>{name}']
    assert len(cells) == 3
    assert all(len(cell) > 5 for cell in cells)
    assert f'alertname="{name}"' in (RULES / "alerts_test.yml").read_text()


def test_nothing_is_explained_that_does_not_exist() -> None:
    assert len(sections()) == len(alerts())
