"""`trail top` against real HTTP servers of metrics."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app
from tests.patience import PATIENCE_S
from tests.unit.cli.top.metrics_text import AGENT, PREDICTOR, SCHEDULER

PAGES = {"/metrics": SCHEDULER, "/agent": AGENT, "/predictor": PREDICTOR, "/other": "<html>hello</html>"}
NOBODY = "127.0.0.1:1"


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = PAGES.get(self.path)
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def top(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["top", "--interval", "0.2", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_one_frame_shows_everybody_who_answers(address: str) -> None:
    code, out, _ = top("--once", address, f"http://{address}/agent", f"http://{address}/predictor")
    assert code == 0
    for shown in ("trail/per_step", "no predictor", "-2.0 s", "∞", "gone", "on trial", "treatment by p99", "-10.0%"):
        assert shown in out, shown


def test_who_does_not_answer_is_named_with_the_reason_and_the_others_are_shown(address: str) -> None:
    code, out, _ = top("--once", address, NOBODY, f"http://{address}/other", f"http://{address}/none", "not an address")
    assert code == 0
    assert "trail/per_step" in out
    assert f"{NOBODY}: nobody listens there" in out
    assert f"http://{address}/other: what it serves is no metrics" in out
    assert f"http://{address}/none: HTTP 404" in out
    assert "not an address: " in out


def test_where_nobody_answers_it_says_what_to_do() -> None:
    code, out, err = top("--once", NOBODY)
    assert code == 1
    assert "nobody listens there" in out
    assert "--metrics-port" in err


def test_json_is_one_object_and_nothing_else(address: str) -> None:
    code, out, _ = top("--json", address, NOBODY)
    assert code == 0
    found = json.loads(out)
    assert found["engines"][0]["running"] == 8
    assert found["engines"][0]["starvation_margin_s"] is None
    assert found["unreachable"] == [{"address": NOBODY, "reason": "nobody listens there"}]


def test_without_a_terminal_it_asks_for_one_frame(address: str) -> None:
    code, _, err = top(address)
    assert code == 2
    assert "--once or --json" in err


def test_in_a_terminal_it_draws_until_ctrl_c(address: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sidecar.cli.main", "top", "--interval", "0.2", address]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while shown.count(b"Queues") < 3:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while more := os.read(ours, 4096):
            shown += more
    os.close(ours)
    assert process.wait(timeout=PATIENCE_S) == 0
    assert b"Traceback" not in shown
