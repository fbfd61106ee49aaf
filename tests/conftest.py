"""Eight CPU devices, checked shapes, and a folder of drawn faces."""

import os

# Before jax is imported: the tests of several devices need several.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping

# Shapes and dtypes in signatures are checked at every call.
_hook = jaxtyping.install_import_hook("flm_jax", "typechecker.check")

import pytest
from absl import flags

from flm_jax.data import wflw
from flm_jax.drawing import dataset

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers want to send them on.


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory):
    """A folder in WFLW's layout with 48 training and 20 test faces."""
    root = tmp_path_factory.mktemp("drawn") / "faces"
    dataset.draw_dataset(root, train=48, test=20, seed=3, workers=0)
    return root


@pytest.fixture(scope="session")
def test_records(faces_root):
    return wflw.read_list(faces_root, wflw.TEST_LIST)


@pytest.fixture(scope="session")
def train_records(faces_root):
    return wflw.read_list(faces_root, wflw.TRAIN_LIST)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the tests marked slow in full")
