"""The PyTorch baseline: a ResNet's training and evaluation step on a batch of noise.

With what PyTorch users reach for: channels-last where that is faster, fused batch norm and
`inference_mode` for evaluation, and on a GPU autocast and `torch.compile`.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flm_jax.benchmark.usage import peak_bytes


class Steps:
    """Both steps, each in the memory layout in which it is faster, warmed up.

    Attributes:
        about: PyTorch's version, the layouts, and the most memory that this process and its GPU
            have held, with each step in both layouts.
    """

    def __init__(self, job: dict[str, Any]):
        """Of `batch_size`, `image_size`, `dtype`, `gpu`, `num_threads`, `ema_decay`, `clip_norm`,
        `backbone`, `head`, `loss` and `optimizer`; `choose_seconds` go to each step and layout."""
        self._job = job
        job["device"] = torch.device("cuda" if job["gpu"] and torch.cuda.is_available() else "cpu")
        torch.set_num_threads(job["num_threads"])
        torch.backends.cudnn.benchmark = True
        self._steps, layouts = {}, {}
        for kind, make in (("train", train_step), ("eval", eval_step)):
            found = []
            for layout in ("contiguous_format", "channels_last"):
                self._steps[kind] = make(job, getattr(torch, layout))
                self.rate(kind, 0)
                found.append((self.rate(kind, job["choose_seconds"]), layout, self._steps[kind]))
            _, layouts[kind], self._steps[kind] = max(found, key=lambda each: each[0])
        self.about = {
            "version": torch.__version__,
            "layouts": layouts,
            "host_peak_bytes": peak_bytes(),
            "device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        }

    def rate(self, kind: str, seconds: float) -> float:
        """Images a second of `train` or `eval`, over at least `seconds`."""
        step = self._steps[kind]
        step()  # Its memory has gone cold meanwhile.
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds or not count:
            step()
            count += 1
            if self._job["device"].type == "cuda":
                torch.cuda.synchronize()
        return self._job["batch_size"] * count / elapsed


def train_step(job: dict[str, Any], layout: torch.memory_format) -> Callable[[], None]:
    """A step of training on a batch of noise."""
    network = ResNet(**job["backbone"]).train()
    forward, images = _prepare(network, job, layout)
    targets = torch.rand(len(images), 196, device=job["device"]) * job["image_size"]
    optimizer = make_optimizer(network.parameters(), **job["optimizer"])
    loss_of = make_loss(image_size=job["image_size"], **job["loss"])
    average = [value.detach().clone() for value in network.parameters()]

    def step():
        optimizer.zero_grad(set_to_none=True)
        with _autocast(job):
            predictions = forward(images)
        loss_of(predictions.float(), targets).backward()
        if job["clip_norm"]:
            nn.utils.clip_grad_norm_(network.parameters(), job["clip_norm"])
        optimizer.step()
        if job["ema_decay"]:
            with torch.no_grad():
                torch._foreach_lerp_(average, list(network.parameters()), 1 - job["ema_decay"])

    return step


def eval_step(job: dict[str, Any], layout: torch.memory_format) -> Callable[[], torch.Tensor]:
    """A prediction for a batch of noise, with batch norm fused into the convolutions."""
    network = ResNet(**job["backbone"]).eval()
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module[0], module[1] = nn.utils.fuse_conv_bn_eval(*module), nn.Identity()
    forward, images = _prepare(network, job, layout)

    def step():
        with torch.inference_mode(), _autocast(job):
            return forward(images)

    return step


def _prepare(network, job, layout):
    """The forward pass on the device and its images."""
    network.to(job["device"]).to(memory_format=layout)
    shape = (job["batch_size"], 3, job["image_size"], job["image_size"])
    images = torch.randn(shape, device=job["device"]).to(memory_format=layout)
    return (torch.compile(network) if job["device"].type == "cuda" else network), images


def _autocast(job):
    enabled = job["dtype"] == "bfloat16"
    return torch.autocast(job["device"].type, dtype=torch.bfloat16, enabled=enabled)


def make_optimizer(parameters, name: str, b1: float = 0.9, b2: float = 0.999, **settings: Any):
    """The optimiser of the config, at a constant rate."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1e-4, **settings)
    optimizer = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return optimizer(parameters, lr=1e-4, betas=(b1, b2), **settings)


def make_loss(name: str, *, reference_size: float, image_size: int, **settings: float):
    """The loss of the config: predictions, targets in pixels of the input -> their mean loss."""

    def wing(error, width, curvature):
        constant = width - width * math.log(1 + width / curvature)
        inside = width * torch.log(1 + error / curvature)
        return torch.where(error < width, inside, error - constant)

    def smooth_l1(error, delta=1.0):
        return torch.where(error < delta, error**2 / 2, delta * (error - delta / 2))

    elementwise: Any = {"wing": wing, "l1": torch.abs, "smooth_l1": smooth_l1}[name]
    scale = reference_size / image_size
    return lambda predictions, targets: elementwise(
        (scale * (predictions - targets)).abs(), **settings
    ).mean()


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm."""

    def __init__(self, inputs, outputs, size, stride=1):
        convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A bottleneck or a basic block, with a projection where the shape changes."""

    def __init__(self, inputs, features, stride, bottleneck):
        super().__init__()
        self.outputs = 4 * features if bottleneck else features
        if bottleneck:
            shapes = [(inputs, features, 1), (features, features, 3, stride)]
            shapes.append((features, self.outputs, 1))
        else:
            shapes = [(inputs, features, 3, stride), (features, features, 3)]
        self.convolutions = nn.ModuleList(ConvNorm(*shape) for shape in shapes)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != self.outputs or stride != 1:
            self.shortcut = ConvNorm(inputs, self.outputs, 1, stride)

    def forward(self, x):
        y = x
        for convolution in self.convolutions[:-1]:
            y = torch.relu_(convolution(y))
        return torch.relu_(self.convolutions[-1](y) + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNet of `models/resnet.py` with the 196 outputs of the head."""

    def __init__(self, name, stage_sizes, bottleneck, width, last_stride=0):
        super().__init__()
        self.stem, self.pool = ConvNorm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)
        blocks, inputs, total = [], width, 4
        for stage, number in enumerate(stage_sizes):
            stride = 2 if stage > 0 and total != last_stride else 1
            total *= stride
            for index in range(number):
                strides = stride if index == 0 else 1
                blocks.append(Block(inputs, width * 2**stage, strides, bottleneck))
                inputs = blocks[-1].outputs
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, 196)

    def forward(self, x):
        x = self.pool(torch.relu_(self.stem(x)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))
