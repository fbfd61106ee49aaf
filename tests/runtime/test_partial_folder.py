import fcntl
import os
from pathlib import Path

import pytest

from flm_jax.errors import InputError
from flm_jax.runtime import work_folder
from flm_jax.runtime.partial_folder import landing, partial_folder, partial_name


def test_what_killed_processes_left_is_removed_and_what_others_fill_is_kept(tmp_path):
    root = tmp_path / "faces"
    abandoned, filled = partial_name(root), partial_name(root)
    for folder in (abandoned, filled):
        folder.mkdir()
        (folder / "a.jpg").touch()
    lock = f"{filled.name}.lock"
    (tmp_path / f"{abandoned.name}.lock").touch()
    held = os.open(tmp_path / lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with partial_folder(root) as partial:
        assert not abandoned.exists()
        partial.rename(root)
    os.close(held)
    assert {path.name for path in tmp_path.iterdir()} == {"faces", filled.name, lock}


def test_locks_are_of_files_that_are_written(tmp_path, monkeypatch):
    """NFS refuses others."""
    seen, lock = [], fcntl.flock

    def lock_on_nfs(file, operation):
        seen.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_on_nfs)
    with partial_folder(tmp_path / "faces", "1-2"):
        partial_name(tmp_path / "faces").mkdir()
        with partial_folder(tmp_path / "faces"):
            pass
    with work_folder.only_run_in(tmp_path):
        pass
    assert len(seen) >= 5
    assert set(seen) == {os.O_RDWR}


def test_a_folder_that_is_not_finished_is_removed(tmp_path):
    with partial_folder(tmp_path / "faces") as partial:
        (partial / "a.jpg").touch()
    assert not list(tmp_path.iterdir())


def test_folders_of_the_users_own_are_left_alone(tmp_path):
    """Also where the name would be a pattern that fits others."""
    others = {".a[b].notes.partial", f".ab.{32 * '0'}.partial", f".a[b].{32 * 'x'}.partial"}
    for name in others:
        (tmp_path / name).mkdir()
    partial_name(tmp_path / "a[b]").mkdir()
    with partial_folder(tmp_path / "a[b]"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_folder_lands_where_a_link_points_to_and_on_no_mount_point(tmp_path):
    """A rename to either would fail, after all the work is done."""
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    assert landing(tmp_path / "link") == tmp_path / "there"
    (tmp_path / "there").mkdir()
    assert landing(tmp_path / "link") == tmp_path / "there"
    assert not list((tmp_path / "there").iterdir())
    with pytest.raises(InputError, match="/proc: is a mount point"):
        landing(Path("/proc"))
