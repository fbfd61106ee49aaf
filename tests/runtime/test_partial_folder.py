import fcntl
import os

from flm_jax.runtime.partial_folder import partial_folder, partial_name


def test_what_killed_processes_left_is_removed_and_what_others_fill_is_kept(tmp_path):
    root = tmp_path / "faces"
    abandoned, filled = partial_name(root), partial_name(root)
    for folder in (abandoned, filled):
        folder.mkdir()
        (folder / "a.jpg").touch()
    held = os.open(filled, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with partial_folder(root) as partial:
        assert not abandoned.exists()
        partial.rename(root)
    os.close(held)
    assert {path.name for path in tmp_path.iterdir()} == {"faces", filled.name}


def test_a_folder_that_is_not_finished_is_removed(tmp_path):
    with partial_folder(tmp_path / "faces") as partial:
        (partial / "a.jpg").touch()
    assert not list(tmp_path.iterdir())
