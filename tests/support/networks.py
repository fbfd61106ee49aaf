"""Small networks with random weights, and batches for them."""

import contextlib
import copy
import dataclasses
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np

from configs import demo
from flm_jax.config import build, schema
from flm_jax.models.resnet import ResNet
from flm_jax.runtime.checkpoint import Checkpoints
from flm_jax.runtime.devices import replicated
from flm_jax.training.losses import make_face_loss
from flm_jax.training.state import create_train_state

SIZE = 32
FACE_LOSS = make_face_loss("wing", reference_size=224, image_size=SIZE, width=5.0, curvature=0.5)


def make_config(faces_root):
    """The demo's config for faces that are drawn already, with one block at 32 px."""
    config = demo.get_config()
    config.batch_size = 8
    config.data.root = str(faces_root)
    config.data.drawn.train = 0
    config.data.image_size = SIZE
    config.model.backbone.stage_sizes = (1,)
    config.model.backbone.width = 4
    config.compilation_cache = "off"  # JAX keeps the tests' own, as conftest.py says.
    return config


def tiny_config(faces_root):
    """The config of `launches.tiny`."""
    config = make_config(faces_root)
    config.batch_size, config.num_epochs = 16, 4
    config.data.num_threads = config.log.every_steps = 1
    return config


def change(config, key, value):
    """The config with another value of a key, or with a key that it should not have."""
    config = copy.deepcopy(config)
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({key: value})
    return config


def save_state(workdir, config, state):
    """Makes the state the one checkpoint of a work folder."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save(state, {"fingerprint": 0}, schema.as_json(config), 1.0)


def make_state(config, **settings):
    """The config's network and the state before its first step."""
    model = build.build_model(config)
    optimizer = build.build_optimizer(config, lambda step: 1e-3)
    size = config.data.image_size
    return model, create_train_state(
        model, optimizer, jax.random.key(0), size, replicated(), **settings
    )


def save_weights(config, workdir, head=1.0):
    """A checkpoint of random weights, whose batch norm is no identity, the head's times `head`."""
    model, state = make_state(config)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda leaf: leaf * rng.uniform(0.5, 2, leaf.shape), state.batch_stats)
    params = {**state.params, "head": jax.tree.map(lambda leaf: head * leaf, state.params["head"])}
    state = dataclasses.replace(
        state, params=params, batch_stats=jax.device_put(stats, replicated())
    )
    save_state(workdir, config, state)
    return model, jax.device_get(state.variables)


def load_evaluation(workdir, suffix=""):
    """The figures and the arrays of an evaluation."""
    figures = json.loads((workdir / f"evaluation{suffix}.json").read_text())
    return figures, np.load(workdir / f"predictions{suffix}.npz", allow_pickle=False)


def random_variables(model, images, seed=0):
    """Variables that are all non-trivial, running means and variances included."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            rng.uniform(0.5, 1.5, leaf.shape)
            if path[-1].key in ("scale", "var")
            else rng.normal(0, 0.3, leaf.shape)
        ).astype(np.float32),
        shapes,
    )


def plain_convolution(x, kernel, stride):
    """JAX's own 3x3 convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def make_batch(size=16, seed=0):
    """A batch of noise."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(size, SIZE, SIZE, 3)).astype(np.float32),
        "landmarks": rng.uniform(0, SIZE, (size, 98, 2)).astype(np.float32),
        "image_from_crop": rng.normal(size=(size, 2, 3)).astype(np.float32),
        "index": np.arange(size, dtype=np.int32),
        "mask": np.ones(size, np.float32),
    }


def in_float64(tree):
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, np.float64 if leaf.dtype == np.float32 else leaf.dtype), tree
    )


def torch_tensors(variables):
    """A ResNet's variables plus 1, as torchvision names and orders them."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        values = np.asarray(leaf)
        values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
        tensors[ResNet.torch_name([key.key for key in path])] = np.ascontiguousarray(values + 1)
    return tensors


_SAFETENSORS_NAMES = {"float32": "F32", "int64": "I64", "float16": "F16"}


def safetensors_bytes(tensors):
    """A .safetensors file as the format's description has it."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + values.nbytes],
        }
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data
