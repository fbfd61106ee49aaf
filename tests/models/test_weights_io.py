import json
import struct
import sys
import types

import numpy as np
import pytest
import safetensors.numpy
from support.networks import safetensors_bytes

from flm_jax.errors import InputError
from flm_jax.models import weights_io

TENSORS = {
    "conv1.weight": np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32),
    "count": np.array(7, np.int64),
    "half": np.array([1.5, -2.0], np.float16),
}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].shape == values.shape


def header_only(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_safetensors_file_reads_back(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    assert_same(weights_io.read_tensors(path), TENSORS)


def test_bfloat16_is_read_as_float32(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    path.write_bytes(header_only(header, b"\x80\x3f\x20\xc0"))
    (values,) = weights_io.read_tensors(path).values()
    assert values.dtype == np.float32
    assert values.tolist() == [1.0, -2.5]


def test_torchs_files_are_read_where_torch_is_installed(tmp_path):
    path = tmp_path / "weights.pth"
    try:
        import torch
    except ImportError:
        path.write_bytes(b"x")
        with pytest.raises(InputError, match="needs torch, which is not installed"):
            weights_io.read_tensors(path)
        return
    torch.save({name: torch.from_numpy(np.array(v)) for name, v in TENSORS.items()}, path)
    assert_same(weights_io.read_tensors(path), TENSORS)
    torch.save({"a": print}, path)  # Only code of the file's author could make it.
    with pytest.raises(InputError, match="not a state dict of tensors"):
        weights_io.read_tensors(path)


def test_only_tensors_are_unpickled(tmp_path, monkeypatch):
    """Tested where torch is not installed, too."""
    asked = {}

    def load(path, **settings):
        asked.update(settings)
        return {}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    assert weights_io.read_tensors(path) == {}
    assert asked["weights_only"] is True


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"<html>" * 10,
        safetensors_bytes(TENSORS)[:-1],
        safetensors_bytes(TENSORS)[:60],
        header_only({"a": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]}}),
        header_only({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 0]}}),
        header_only({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        header_only({"a": [1]}),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights.safetensors: not a safetensors file"):
        weights_io.read_tensors(path)


def test_a_missing_file_and_another_kind_are_named(tmp_path):
    with pytest.raises(InputError, match="gone.safetensors: no such file"):
        weights_io.read_tensors(tmp_path / "gone.safetensors")
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="expected a .safetensors, .pth or .pt file"):
        weights_io.read_tensors(tmp_path / "weights.onnx")
