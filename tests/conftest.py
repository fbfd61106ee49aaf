"""Two CPU devices, checked shapes, one cache of compiled programs, and shared folders."""

import os
import pathlib

# Before jax is imported. The tests of several devices need several, and what tests compile runs so
# shortly that optimising it less takes an eighth off the whole CPU time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=1"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Every process of the tests, launched ones included, keeps what it compiles for the next run of
# the tests. The folder may be deleted at any time.
_COMPILED = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jaxtyping

# Shapes and dtypes in signatures are checked at every call.
_hook = jaxtyping.install_import_hook("flm_jax", "typechecker.check")

import pytest
from absl import flags
from support.launches import EVERY_STEP, launch, run_recorded, tiny
from support.shared import filled_once

from flm_jax.data import wflw
from flm_jax.drawing import dataset
from flm_jax.runtime import compilation_cache

LONG = {
    *("test_kill", "test_processes", "test_signals", "test_benchmark_mode", "test_export_mode"),
    *("test_prepared", "test_dataset", "test_saves", "test_launch", "test_progress"),
}

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers want to send them on.


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the tests marked slow in full")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # Once, before pytest-xdist starts its workers.
        compilation_cache.enable(_COMPILED)  # Removes what a killed run has left half-written.


def pytest_collection_modifyitems(items):
    """The longest modules come first: a module stays on one worker, with its fixtures."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory):
    """A folder in WFLW's layout with 48 training and 20 test faces."""

    def draw(folder):
        dataset.draw_dataset(folder, train=48, test=20, seed=2, workers=2)

    return filled_once(tmp_path_factory, "faces", draw)


@pytest.fixture(scope="session")
def test_records(faces_root):
    return wflw.read_list(faces_root, wflw.TEST_LIST)


@pytest.fixture(scope="session")
def train_records(faces_root):
    return wflw.read_list(faces_root, wflw.TRAIN_LIST)


@pytest.fixture(scope="session")
def trained(faces_root, tmp_path_factory):
    """The work folder of an undisturbed `tiny` run, to be read, and copied where it is used.

    What the run printed is beside it, in output.txt.
    """

    def train(folder):
        output = launch(*tiny(faces_root, folder / "work"))
        (folder / "output.txt").write_text(output)

    return filled_once(tmp_path_factory, "trained", train) / "work"


@pytest.fixture(scope="session")
def every_step(faces_root, tmp_path_factory):
    """The work folder of a run with a checkpoint after every step, to be read or copied.

    The checksums of its batches are beside it, as `run_recorded` leaves them.
    """

    def train(folder):
        folder.mkdir()
        run_recorded(folder / "work", *tiny(faces_root, folder / "work", *EVERY_STEP))

    return filled_once(tmp_path_factory, "every_step", train) / "work"
