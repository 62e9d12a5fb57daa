import json
from collections.abc import Iterator

import pytest
import structlog

from sidecar import log


@pytest.fixture(autouse=True)
def _structlog_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_lines_are_json_objects_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    structlog.get_logger().info("ready", port=1)
    structlog.get_logger().debug("hidden")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["port"], line["level"]) == ("ready", 1, "info")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        log.configure("loud")
