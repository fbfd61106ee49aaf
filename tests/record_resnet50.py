"""Records what torchvision's ResNet-50 computes from weights that NumPy generates.

    python tests/record_resnet50.py

Needs torch and torchvision, and writes tests/recordings/resnet50.npz: the outputs of the stem's
batch norm, of the four stages and of the pooling for one picture of 64 px, and the names and shapes
of the network's tensors, so that the weights can be generated again without torch.
"""

import json
import pathlib
import zlib

import numpy as np

RECORDING = pathlib.Path(__file__).parent / "recordings" / "resnet50.npz"
STAGES = ("bn1", "layer1", "layer2", "layer3", "layer4", "pooled")


def make_picture():
    """f32[1, 64, 64, 3]."""
    return np.random.default_rng(7).normal(size=(1, 64, 64, 3)).astype(np.float32)


def make_weights(shapes):
    """All tensors of the network, none of them trivial, from their names and a seed."""
    return {name: _make_tensor(name, tuple(shape)) for name, shape in shapes.items()}


def _make_tensor(name, shape):
    rng = np.random.default_rng([11, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.array(1000)
    if len(shape) == 4:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    if name.endswith(("running_var", "weight")) and len(shape) == 1:
        # The last batch norm of a block adds to the shortcut: less of it, or the sums grow.
        low, high = (0.2, 0.7) if name.endswith("bn3.weight") else (0.5, 1.5)
        return rng.uniform(low, high, shape).astype(np.float32)
    return rng.normal(0, 0.3, shape).astype(np.float32)


def torchvision_activations():
    """The activations of the real network, channels last, and its tensors' shapes."""
    import torch
    import torchvision

    network = torchvision.models.resnet50(weights=None).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in make_weights(shapes).items()}
    network.load_state_dict(weights)
    outputs = {}
    for stage in STAGES:
        module = network.avgpool if stage == "pooled" else getattr(network, stage)
        module.register_forward_hook(
            # A copy: the ReLU that follows works in place.
            lambda _, __, output, stage=stage: outputs.update({stage: output.clone()})
        )
    with torch.no_grad():
        network(torch.from_numpy(make_picture().transpose(0, 3, 1, 2)))
    activations = {
        stage: np.ascontiguousarray(output.numpy().transpose(0, 2, 3, 1))
        for stage, output in outputs.items()
    }
    return activations, shapes


def read_recording():
    with np.load(RECORDING) as recording:
        arrays = dict(recording)
    return arrays, json.loads(arrays.pop("shapes").item())


if __name__ == "__main__":
    activations, shapes = torchvision_activations()
    np.savez(RECORDING, shapes=json.dumps(shapes), **activations)
    for stage, values in activations.items():
        print(stage, values.shape, f"rms {np.sqrt((values**2).mean()):.3f}")
