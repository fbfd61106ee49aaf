import json

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from support.networks import tiny_config

from configs import demo
from flm_jax.config import schema
from flm_jax.data import sampler
from flm_jax.errors import InputError
from flm_jax.modes import evaluate, train
from flm_jax.runtime import alike
from flm_jax.runtime.alike import check_alike


@pytest.fixture
def others(monkeypatch):
    """The facts of the other processes of this run."""
    facts: list[dict] = []
    versions = {"the code's checksum": alike._code_checksum(), "JAX's version": jax.__version__}

    def gather(own):
        texts = [json.dumps({**other, **versions}).encode() for other in facts]
        if own.ndim == 0:
            return np.array([own, *map(len, texts)])
        rows = [own, *(np.frombuffer(text, np.uint8) for text in texts)]
        return np.stack([np.pad(row, (0, len(own) - len(row))) for row in rows])

    monkeypatch.setattr(jax, "process_count", lambda: 1 + len(facts))
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    return facts


def test_processes_that_are_not_alike_are_told_in_what(others):
    own = {"--mode": "train", "seed": 0, "data.drop_lines": [3]}
    others += [own, {"--mode": "train", "seed": 1, "data.drop_lines": [3], "schedule.warmup": 0.1}]
    with pytest.raises(InputError) as error:
        check_alike(own)
    assert str(error.value).splitlines()[1:-1] == [
        "  seed: 0 -> 1 in process 2",
        "  schedule.warmup: (none) -> 0.1 in process 2",
    ]
    others[1] = own
    check_alike(own)


def test_paths_and_readers_may_be_a_processs_own():
    flat = schema.shared(demo.get_config())
    assert {"seed", "batch_size", "checkpoint.every_steps", "evaluate.split"} <= set(flat)
    assert not {"data.root", "data.prepared", "data.num_workers"} & set(flat)


@pytest.mark.parametrize("mode", [evaluate, train])
def test_a_run_compares_its_config_and_its_faces(
    mode, faces_root, test_records, tmp_path, monkeypatch
):
    seen = []

    def compare(facts):
        seen.append(facts)
        if len(seen) == 2:
            raise InputError("compared")

    monkeypatch.setattr(mode, "check_alike", compare)
    monkeypatch.setattr(evaluate, "load_weights", lambda *_: (7, None, None))
    config = tiny_config(faces_root)
    with pytest.raises(InputError, match="compared"):
        mode.run(config, tmp_path)
    assert schema.shared(config).items() <= seen[0].items()
    assert seen[1]["the test faces"] == sampler.fingerprint(test_records)
