"""Whoever rings never waits and never fails; whoever listens hears it at once."""

import os
import select
from pathlib import Path

import pytest

from engine_adapter.bell import Bell, Ringer


def rung(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_ring_is_heard_until_it_is_silenced(tmp_path: Path) -> None:
    bell, ringer = Bell(tmp_path / "bell"), Ringer(tmp_path / "bell")
    assert not rung(bell)
    ringer.ring()
    assert rung(bell)
    bell.silence()
    assert not rung(bell)


def test_nobody_listens_yet_or_any_more_or_again(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    ringer = Ringer(path)
    ringer.ring()
    bell = Bell(path)
    ringer.ring()
    assert rung(bell)
    bell.close()
    ringer.ring()
    ringer.ring()
    again = Bell(path)
    again.silence()
    ringer.ring()
    assert rung(again)


def test_a_full_pipe_does_not_hold_up_whoever_rings(tmp_path: Path) -> None:
    bell, ringer = Bell(tmp_path / "bell"), Ringer(tmp_path / "bell")
    for _ in range(100_000):
        ringer.ring()
    bell.silence()
    assert not rung(bell)


def test_what_is_not_a_pipe_is_refused_by_the_one_and_left_alone_by_the_other(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    path.write_bytes(b"precious")
    with pytest.raises(OSError, match="not a pipe"):
        Bell(path)
    Ringer(path).ring()
    assert path.read_bytes() == b"precious"


def test_it_is_private(tmp_path: Path) -> None:
    Bell(tmp_path / "bell")
    assert os.stat(tmp_path / "bell").st_mode & 0o777 == 0o600
