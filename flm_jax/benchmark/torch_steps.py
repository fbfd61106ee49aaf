"""A PyTorch ResNet that takes turns with ours, for `--mode benchmark`; a program of its own.

    python -m flm_jax.benchmark.torch_steps

It reads a job and then measurements, a line of JSON each, and answers each with one. The network,
loss and optimiser are the config's; the batch is random and in memory already. It uses what PyTorch
users reach for: channels-last where that is faster, fused batch norm and `inference_mode` for
evaluation, and on a GPU autocast and `torch.compile`.
"""

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def serve() -> None:
    """Answers until the input ends."""
    job = json.loads(sys.stdin.readline())
    device = torch.device("cuda" if job["gpu"] and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(job["num_threads"])
    torch.backends.cudnn.benchmark = True
    steps, layouts = {}, {}
    for kind, make in (("train", _train_step), ("eval", _eval_step)):
        steps[kind], layouts[kind] = _fastest(make, job, device)
    device_peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    _answer(layouts=layouts, version=torch.__version__, device_bytes=device_peak)
    for line in sys.stdin:
        order = json.loads(line)
        step = steps[order["measure"]]
        step()  # Its memory has gone cold meanwhile.
        rate = _rate(device, step, order["seconds"])
        _answer(rate=rate * job["batch_size"])


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _rate(device, step, seconds) -> float:
    """Steps a second, for at least `seconds`."""
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        step()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return count / elapsed


def _fastest(make, job, device) -> tuple[Callable[[], object], str]:
    """The step in the memory layout in which it is faster, warmed up."""
    found = []
    for name, layout in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        step = make(job, device, layout)
        step()
        step()
        found.append((_rate(device, step, job["choose_seconds"]), name, step))
    _, name, step = max(found, key=lambda each: each[0])
    return step, name


def _autocast(job, device):
    bfloat16 = job["dtype"] == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def _images(job, device, layout):
    torch.manual_seed(0)
    images = torch.randn(job["batch_size"], 3, job["image_size"], job["image_size"])
    return images.to(device, memory_format=layout)


def _train_step(job, device, layout):
    network = ResNet(**job["backbone"]).to(device).to(memory_format=layout).train()
    forward = torch.compile(network) if device.type == "cuda" else network
    images = _images(job, device, layout)
    targets = torch.rand(job["batch_size"], 196, device=device) * job["image_size"]
    optimizer = _optimizer(network.parameters(), dict(job["optimizer"]))
    loss_of = _loss(dict(job["loss"]), job["image_size"])
    decay = job["ema_decay"]
    average = [value.detach().clone() for value in network.parameters()] if decay else []

    def step():
        optimizer.zero_grad(set_to_none=True)
        with _autocast(job, device):
            predictions = forward(images)
        loss_of(predictions.float(), targets).backward()
        if job["clip_norm"]:
            nn.utils.clip_grad_norm_(network.parameters(), job["clip_norm"])
        optimizer.step()
        if decay:
            with torch.no_grad():
                torch._foreach_lerp_(average, list(network.parameters()), 1 - decay)

    return step


def _eval_step(job, device, layout):
    network = ResNet(**job["backbone"]).eval()
    _fuse(network)
    network = network.to(device).to(memory_format=layout)
    forward = torch.compile(network) if device.type == "cuda" else network
    images = _images(job, device, layout)

    def step():
        with torch.inference_mode(), _autocast(job, device):
            return forward(images)

    return step


def _fuse(module):
    """Takes every batch norm into the convolution before it, in place."""
    children = dict(module.named_children())
    for name, child in children.items():
        norm = name.replace("conv", "bn")
        if norm != name and norm in children:
            fused = nn.utils.fusion.fuse_conv_bn_eval(child, children[norm])
            setattr(module, name, copy.deepcopy(fused))
            setattr(module, norm, nn.Identity())
        else:
            _fuse(child)


def _optimizer(parameters, settings):
    name, settings = settings.pop("name"), {"lr": 1e-4, **settings}
    if "b1" in settings or "b2" in settings:
        settings["betas"] = (settings.pop("b1", 0.9), settings.pop("b2", 0.999))
    classes: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    return classes[name](parameters, **settings)


def _loss(settings, image_size):
    name = settings.pop("name")
    scale = settings.pop("reference_size") / image_size

    def wing(error, width, curvature):
        constant = width - width * math.log(1 + width / curvature)
        inside = width * torch.log(1 + error / curvature)
        return torch.where(error < width, inside, error - constant)

    def smooth_l1(error, delta=1.0):
        return torch.where(error < delta, error**2 / 2, delta * (error - delta / 2))

    losses: Any = {"wing": wing, "l1": lambda error: error, "smooth_l1": smooth_l1}
    elementwise = losses[name]
    return lambda predictions, targets: elementwise(
        (scale * (predictions - targets)).abs(), **settings
    ).mean()


class ResNet(nn.Module):
    """The ResNet of `models/resnet.py` with the 196 outputs of the head."""

    def __init__(self, stage_sizes, bottleneck, width):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], width
        for stage, number in enumerate(stage_sizes):
            for index in range(number):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(inputs, width * 2**stage, stride, bottleneck))
                inputs = blocks[-1].outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 196)

    def forward(self, x):
        x = self.pool(torch.relu_(self.bn1(self.conv1(x))))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class Block(nn.Module):
    """A bottleneck or a basic block, with a projection where the shape changes."""

    def __init__(self, inputs, features, stride, bottleneck):
        super().__init__()
        self.outputs = 4 * features if bottleneck else features
        shapes = [(inputs, features, 3, stride), (features, features, 3, 1)]
        if bottleneck:
            shapes = [(inputs, features, 1, 1), (features, features, 3, stride)]
            shapes.append((features, self.outputs, 1, 1))
        self.count = len(shapes)
        for i, shape in enumerate(shapes, start=1):
            setattr(self, f"conv{i}", _conv(*shape))
            setattr(self, f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.projected = inputs != self.outputs or stride != 1
        if self.projected:
            self.conv_shortcut = _conv(inputs, self.outputs, 1, stride)
            self.bn_shortcut = nn.BatchNorm2d(self.outputs)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = torch.relu_(y)
        shortcut = self.bn_shortcut(self.conv_shortcut(x)) if self.projected else x
        return torch.relu_(y + shortcut)


def _conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


if __name__ == "__main__":
    serve()
