"""Rates, figures and the baselines of the benchmark. No test of a time."""

import importlib.util
import time

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from support.faces import attach, prepare, uses_of

from flm_jax import geometry
from flm_jax.benchmark import figures, opencv_loop, timing
from flm_jax.benchmark.torch_process import torch_process
from flm_jax.data import prepared_face, wflw
from flm_jax.data.crop import crop_map
from flm_jax.errors import InputError

JOB = {
    "batch_size": 2,
    "image_size": 32,
    "dtype": "float32",
    "gpu": False,
    "num_threads": 1,
    "ema_decay": 0.9,
    "clip_norm": 1.0,
    "backbone": {"name": "resnet", "stage_sizes": (1, 1), "bottleneck": True, "width": 4},
    "head": {"name": "regression"},
    "loss": {"name": "wing", "width": 5.0, "curvature": 0.5, "reference_size": 224},
    "optimizer": {"name": "adamw", "b1": 0.9, "weight_decay": 0.1},
    "choose_seconds": 0.01,
}


def test_pytorch_that_can_not_be_measured_is_an_error(tmp_path, monkeypatch):
    for change, message in (
        ({"loss": {"name": "soft_wing"}}, "losses wing, l1, smooth_l1, not loss.name=soft_wing"),
        ({"backbone": {"name": "vit"}}, "model.backbone.name=resnet alone"),
        ({"head": {"name": "simcc"}}, "model.head.name=regression alone"),
    ):
        with pytest.raises(InputError, match=message), torch_process({**JOB, **change}):
            pass
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('none here')")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        with pytest.raises(InputError, match="its process ended"), torch_process(JOB):
            pass
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(InputError, match="torch is not installed; `pip install"),
        torch_process(JOB),
    ):
        pass


def test_figures_are_medians_and_ratios_are_of_the_same_round():
    rates = {
        "train": [10.0, 20.0, 30.0],
        "train_one_device": [10.0, 10.0, 10.0],
        "eval": [50.0, 50.0, 80.0],
        "loader": [5.0, 40.0, 60.0],
        "end_to_end": [4.0, 20.0, 27.0],
        "decode_limit": [10.0, 80.0, 60.0],
        "bare_loop": [10.0, 10.0, 10.0],
        "matrix_product_flops": [1e12, 1e12, 1e12],
        "torch_train": [5.0, 20.0, 60.0],
        "torch_eval": [1.0, 1.0, 1.0],
    }
    flops = {"train": 3e9, "eval": 1e9}
    found = figures.summarise(rates, num_devices=4, model_flops_per_image=flops)
    assert found["train"] == 20.0
    assert found["spread"]["loader"] == [5.0, 60.0]
    assert found["ratios"] == pytest.approx(
        {
            "loader_over_decode_limit": 0.5,
            "loader_over_bare_loop": 4.0,
            "train_over_torch": 1.0,
            "eval_over_torch": 50.0,
            "end_to_end_over_slower": 0.9,
        }
    )
    assert found["model_flop_utilisation"] == pytest.approx({"train": 0.015, "eval": 0.0125})
    assert found["per_device_efficiency"] == pytest.approx(0.5)


@pytest.mark.parametrize("size", [32, 128])  # Most crops of 32 px shrink the image.
@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_bare_loop_cuts_the_loaders_crops(faces_root, tmp_path, is_prepared, size):
    uses = uses_of()
    records = wflw.read_list(faces_root, wflw.TEST_LIST)
    if is_prepared:
        prepare(tmp_path / "faces", faces_root, uses)
        records = attach(tmp_path / "faces", faces_root, uses)[wflw.TEST_LIST]
    samples = opencv_loop.samples(records, size, "rectangle", uses.crop)
    for record, sample in zip(records, samples, strict=True):
        crop_from_image = crop_map(record.box, size, **uses.crop)
        expected = prepared_face.cut_face(record, geometry.invert(crop_from_image), size)
        image = cv2.imdecode(np.frombuffer(sample.content, np.uint8), cv2.IMREAD_COLOR)
        found = opencv_loop.bare_crop(image, sample.image_from_crop, size)
        # Where the box has whole pixels, rounding decides how an image is reduced.
        assert np.abs(found.astype(int) - expected).mean() < 1


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
