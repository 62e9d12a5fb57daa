"""Rings and plan board lie where nobody else can reach them."""

import os
import stat
from pathlib import Path

import pytest

from engine_adapter.paths import FolderError, engine_paths, private_folder
from engine_adapter.ring import RingProducer

as_root = pytest.mark.skipif(os.getuid() != 0, reason="gives folders to another user")
SOMEBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_folder_and_that_above_it_are_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / "root" / "engine")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "root"), mode(tmp_path / "root" / "engine")) == (0o700, 0o700)


def test_a_folder_of_ours_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    folder.chmod(0o755)
    RingProducer(folder / "events.ring", 1024).close()
    assert mode(folder) == 0o700
    assert mode(folder / "events.ring") == 0o600


@pytest.mark.parametrize("which", ["root", "root/engine"])
def test_a_link_is_no_folder_of_ours(tmp_path: Path, which: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if which != "root":
        (tmp_path / "root").mkdir()
    (tmp_path / which).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match=f"{which}: not a folder of user"):
        private_folder(tmp_path / "root" / "engine")
    with pytest.raises(FolderError):
        RingProducer(tmp_path / "root" / "engine" / "events.ring", 1024)


@as_root
@pytest.mark.parametrize("which", ["root", "root/engine"])
def test_a_folder_that_another_user_made_before_us_is_refused(tmp_path: Path, which: str) -> None:
    (tmp_path / "root" / "engine").mkdir(parents=True)
    os.chown(tmp_path / which, SOMEBODY, SOMEBODY)
    with pytest.raises(FolderError, match="not a folder of user"):
        private_folder(tmp_path / "root" / "engine")


def test_a_folder_above_in_which_others_could_exchange_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o777)
    with pytest.raises(FolderError, match="others can write"):
        private_folder(tmp_path / "root" / "engine")
    (tmp_path / "root").chmod(0o1777)
    private_folder(tmp_path / "root" / "engine")


@pytest.mark.parametrize("engine_id", ["..", ".", "../other", "a/b", "", "a\n", "a\0b", "/etc", "x" * 129])
def test_no_engine_s_name_leads_out_of_the_root(engine_id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="engine_id"):
        engine_paths(engine_id, tmp_path)
