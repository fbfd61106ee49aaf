"""The benchmark's figures: that they are there, and are what they are called. No test of a time."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.faces import attach, prepare, uses_of
from support.launches import run, tiny

from flm_jax import geometry
from flm_jax.benchmark import figures, opencv_loop, timing
from flm_jax.data import prepared_face, wflw
from flm_jax.data.crop import crop_image, crop_map
from flm_jax.data.workers import num_cores
from flm_jax.models import resnet
from flm_jax.modes.benchmark import count_flops, take_turns

IMAGE = np.zeros((1, 64, 64, 3), np.float32)
QUICK = ("--mode=benchmark", "--config.benchmark.repeats=2", "--config.benchmark.seconds=0.02")
RATES = ["train", "eval", "loader", "end_to_end", "decode_limit", "bare_loop", "own_loop"]


def launch(faces_root, workdir, *arguments, **settings):
    cache = f"--config.compilation_cache={workdir}/compiled"
    code, output = run(*tiny(faces_root, workdir, *QUICK, cache), *arguments, **settings)
    assert code == 0, output
    return json.loads((workdir / "benchmark.json").read_text()), output


@pytest.fixture(scope="module")
def measured(faces_root, tmp_path_factory):
    """A first start with two devices, and a second one."""
    workdir = tmp_path_factory.mktemp("work")
    first = launch(faces_root, workdir, devices=2)
    return first, launch(faces_root, workdir, devices=2)


def test_the_promised_figures_are_there(measured):
    (figures, output), _ = measured
    loops = [f"{name}_one_thread" for name in ("decode_limit", "bare_loop", "own_loop")]
    for name in (*RATES, *loops, "train_one_device"):
        low, high = figures["spread"][name]
        assert 0 < low <= figures[name] <= high, name
        assert f"\n{name} " in output
    assert figures["config"]["batch_size"] == 16
    assert figures["config"]["num_epochs"] == 4  # As given, not as it is measured.
    assert (figures["device"], figures["num_devices"]) == ("cpu", 2)
    assert figures["device_bytes"] > 0
    assert figures["host_peak_bytes"] > 5e7
    assert figures["start_to_first_step_seconds"] > 0
    assert "torch_train" not in figures
    for share in figures["model_flop_utilisation"].values():
        assert share > 0
    assert "per-device efficiency" in output
    assert figures["faces_read_from"] == "pictures"


def test_the_second_start_compiles_nothing(measured):
    (first, _), (second, _) = measured
    assert first["compilation"]["compiled"] > 0
    assert first["compilation"]["xla_seconds"] > 0
    assert second["compilation"]["compiled"] == 0
    assert second["compilation"]["cached"] >= first["compilation"]["compiled"]


def test_prepared_faces_are_measured_as_such(faces_root, tmp_path):
    prepared = f"--config.data.prepared={tmp_path / 'faces'}"
    code, output = run(*tiny(faces_root, tmp_path / "work", prepared, "--mode=prepare"))
    assert code == 0, output
    figures, output = launch(faces_root, tmp_path / "work", prepared)
    assert figures["faces_read_from"] == str(tmp_path / "faces")
    assert figures["per_device_efficiency"] is None
    assert f"faces are read from {tmp_path / 'faces'}" in output


def test_pytorch_takes_its_turns_or_is_missed_with_one_message(faces_root, tmp_path):
    against = "--config.benchmark.against=torch"
    if importlib.util.find_spec("torch") is None:
        code, output = run(*tiny(faces_root, tmp_path, *QUICK, against))
        assert code == 1
        assert "error: benchmark.against=torch: torch is not installed; `pip install" in output
        assert "Traceback" not in output
    else:
        figures, output = launch(faces_root, tmp_path, against)
        for kind in ("train", "eval"):
            assert figures[f"torch_{kind}"] > 0
            assert figures["ratios"][f"{kind}_over_torch"] > 0
            assert figures["torch"]["layouts"][kind] in ("contiguous", "channels_last")
        assert (figures["torch"]["host_peak_bytes"] is not None) == (sys.platform == "linux")
        assert "train_over_torch" in output


def test_pytorch_that_is_not_there_is_named(faces_root, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('none here')")
    against = "--config.benchmark.against=torch"
    environment = {"PYTHONPATH": f"{tmp_path}"}
    code, output = run(
        *tiny(faces_root, tmp_path / "work", *QUICK, against), environment=environment
    )
    assert code == 1
    assert "error: benchmark.against=torch: its process ended" in output
    code, output = run(
        *tiny(faces_root, tmp_path / "work", *QUICK, against),
        "--config.loss.name=soft_wing",
    )
    assert code == 1
    assert "knows the losses wing, l1, smooth_l1, not loss.name=soft_wing" in output


def test_the_model_flops_are_those_of_plain_convolutions(monkeypatch):
    network = resnet.ResNet((1,), width=64, folded=True)
    variables = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), IMAGE)
    found = count_flops(network, variables, IMAGE.shape[1])
    monkeypatch.setattr(resnet, "convolve", None)
    apply = jax.jit(lambda variables, image: network.apply(variables, image, train=False))
    assert found == apply.lower(variables, IMAGE).cost_analysis()["flops"] > 1e7


def test_the_rounds_go_to_and_fro():
    calls = []

    def measure(name):
        calls.append(name)
        return {name: 1.0}

    rates = take_turns({name: partial(measure, name) for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert rates == {name: [1.0, 1.0, 1.0] for name in "abc"}


def figures_of(rates, num_devices=1):
    flops = {"train": 3e9, "eval": 1e9}
    given = {"num_devices": num_devices, "model_flops_per_image": flops}
    return figures.summarise(rates, given)


ROUNDS = {
    "train": [10.0, 20.0, 30.0],
    "eval": [50.0, 50.0, 80.0],
    "loader": [5.0, 40.0, 60.0],
    "end_to_end": [4.0, 20.0, 27.0],
    "decode_limit": [10.0, 80.0, 60.0],
    "bare_loop": [10.0, 10.0, 10.0],
    "own_loop": [10.0, 20.0, 30.0],
    "matrix_product_flops": [1e12, 1e12, 1e12],
}


def test_figures_are_medians_and_ratios_are_of_the_same_round():
    found = figures_of({**ROUNDS, "torch_train": [5.0, 20.0, 60.0], "torch_eval": [1.0, 1.0, 1.0]})
    assert found["train"] == 20.0
    assert found["spread"]["loader"] == [5.0, 60.0]
    assert found["ratios"] == pytest.approx(
        {
            "loader_over_decode_limit": 0.5,
            "loader_over_bare_loop": 4.0,
            "loader_over_own_loop": 2.0,
            "train_over_torch": 1.0,
            "eval_over_torch": 50.0,
            "end_to_end_over_slower": 0.9,
        }
    )
    assert found["model_flop_utilisation"] == pytest.approx({"train": 0.06, "eval": 0.05})
    assert found["per_device_efficiency"] is None


def test_efficiency_is_of_as_many_devices():
    found = figures_of({**ROUNDS, "train_one_device": [10.0, 10.0, 10.0]}, num_devices=4)
    assert found["per_device_efficiency"] == pytest.approx(0.5)
    assert found["model_flop_utilisation"]["train"] == pytest.approx(0.015)


@pytest.mark.parametrize("size", [32, 128])  # Most crops of 32 px shrink the picture.
@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_loops_cut_the_loaders_crops(faces_root, tmp_path, is_prepared, size):
    uses = uses_of()
    records = wflw.read_list(faces_root, wflw.TEST_LIST)
    if is_prepared:
        prepare(tmp_path / "faces", faces_root, uses)
        records = attach(tmp_path / "faces", faces_root, uses)[wflw.TEST_LIST]
    samples = opencv_loop.samples(records, size, "rectangle", uses.crop)
    for record, sample in zip(records, samples, strict=True):
        crop_from_image = crop_map(record.box, size, **uses.crop)
        expected = prepared_face.cut_face(record, geometry.invert(crop_from_image), size)
        picture = cv2.imdecode(np.frombuffer(sample.content, np.uint8), cv2.IMREAD_COLOR)
        for cut in (crop_image, opencv_loop.plain_crop):
            found = cut(picture, sample.picture_from_crop, size)
            # Where the box has whole pixels, rounding decides how a picture is reduced.
            assert np.abs(found.astype(int) - expected).mean() < 1


def test_processes_add_up(test_records):
    samples = opencv_loop.samples(test_records, 32, "rectangle", {"margin": 10.0})
    alone = opencv_loop.measure(samples, 32, 4, 0.01)
    with opencv_loop.in_processes(2, samples, 32, 4) as measured:
        assert all(rate > 0 for rate in (*alone, *measured(0.01), *measured(0.01)))


def test_calls_are_counted_until_their_results_are_there():
    calls = []

    def call():
        calls.append(time.perf_counter())
        return jnp.zeros(())

    start = time.perf_counter()
    rate = timing.calls_per_second(call, 0.2)
    elapsed = time.perf_counter() - start
    assert len(calls) / elapsed <= rate * 1.001
    assert len(calls) / rate >= 0.2
    assert timing.calls_per_second(call, 0) > 0


def test_a_process_knows_its_age_and_size():
    age = timing.seconds_since_start()
    assert 0 < age < 24 * 3600
    assert timing.seconds_since_start() >= age
    assert 1e7 < timing.peak_bytes() < 1e12
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_does_not_answer_for_the_one_that_started_it():
    held = np.ones(2**26, np.float32)  # More than a small process needs.
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as small:
        small.stdout.readline()
        peak = timing.peak_bytes_of(small.pid)
        small.communicate(b"\n")
    assert 1e6 < peak < held.nbytes < timing.peak_bytes()
    assert timing.peak_bytes_of(small.pid) is None


def test_what_is_compiled_is_counted():
    compilations = timing.Compilations()
    before = compilations.summary()["compiled"]
    jax.jit(lambda x: jnp.sin(x) * 3.5)(1.0)
    after = compilations.summary()
    assert after["compiled"] == before + 1
    assert after["xla_seconds"] > 0
