"""The benchmark's figures: that they are there, and are what they are called. No test of a time."""

import importlib.util
import json
from functools import partial

import jax
import numpy as np
import pytest
from support.launches import launch, tiny
from support.networks import tiny_config

from flm_jax.models import resnet
from flm_jax.modes import prepare
from flm_jax.modes.benchmark import count_flops, take_turns

HAS_TORCH = importlib.util.find_spec("torch") is not None
QUICK = ("--mode=benchmark", "--config.benchmark.repeats=2", "--config.benchmark.seconds=0.02")
# launch.py with few faces for the OpenCV loop, and without a product that takes seconds.
PROGRAM = """
import runpy
from flm_jax.modes import benchmark
benchmark._LOOP_FACES = 64
benchmark._matrix_product = lambda *_: lambda: 1e9
runpy.run_path("launch.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def measured(faces_root, tmp_path_factory):
    """A first start, and a second one with prepared faces, against PyTorch where it is there."""
    workdir = tmp_path_factory.mktemp("work")
    (workdir / "quick.py").write_text(PROGRAM)
    config = tiny_config(faces_root)
    config.data.prepared = f"{workdir}/prepared"
    prepare.run(config, workdir)
    second = (f"--config.data.prepared={workdir}/prepared",)
    if HAS_TORCH:
        second += ("--config.benchmark.against=torch",)
    arguments = tiny(faces_root, workdir, *QUICK, f"--config.compilation_cache={workdir}/compiled")
    found = []
    for more in ((), second):
        output = launch(*arguments, *more, program=workdir / "quick.py")
        found.append((json.loads((workdir / "benchmark.json").read_text()), output))
    return found


def test_the_promised_figures_are_there(measured):
    (figures, output), _ = measured
    rates = ("train", "eval", "loader", "end_to_end", "decode_limit", "bare_loop")
    for name in (*rates, "train_one_device"):
        low, high = figures["spread"][name]
        assert 0 < low <= figures[name] <= high, name
        assert f"\n{name} " in output
    assert figures["config"]["batch_size"] == 16
    assert figures["config"]["num_epochs"] == 4  # As given, not as it is measured.
    assert (figures["device"], figures["num_devices"]) == ("cpu", 2)
    assert figures["device_bytes"] > 0
    assert figures["host_peak_bytes"] > 5e7
    assert figures["start_to_first_step_seconds"] > 0
    assert min(figures["model_flop_utilisation"].values()) > 0
    assert figures["per_device_efficiency"] > 0
    assert "torch_train" not in figures
    assert figures["faces_read_from"] == "images"


def test_the_second_start_compiles_nothing_and_reads_prepared_faces(measured):
    (first, _), (second, _) = measured
    assert first["compilation"]["compiled"] > 0
    assert first["compilation"]["xla_seconds"] > 0
    assert second["compilation"]["compiled"] == 0
    assert second["compilation"]["cached"] >= first["compilation"]["compiled"]
    assert second["faces_read_from"].endswith("/prepared")


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
def test_pytorch_takes_its_turns(measured):
    _, (found, output) = measured
    for kind in ("train", "eval"):
        assert found[f"torch_{kind}"] > 0
        assert found["ratios"][f"{kind}_over_torch"] > 0
        assert found["torch"]["host_peak_bytes"] > 5e7
        assert found["torch"]["layouts"][kind] in ("contiguous_format", "channels_last")
    assert "train_over_torch" in output


def test_the_model_flops_are_those_of_plain_convolutions(monkeypatch):
    image = np.zeros((1, 64, 64, 3), np.float32)
    network = resnet.ResNet((1,), width=64, folded=True)
    variables = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), image)
    found = count_flops(network, variables, image.shape[1])
    monkeypatch.setattr(resnet, "convolve", None)
    apply = jax.jit(lambda variables, image: network.apply(variables, image, train=False))
    assert found == apply.lower(variables, image).cost_analysis()["flops"] > 1e7


def test_the_rounds_go_to_and_fro():
    calls = []
    rates = take_turns({name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert rates == {name: [1.0, 1.0, 1.0] for name in "abc"}
