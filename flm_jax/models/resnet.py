"""ResNet (He et al., CVPR 2016), down to its last feature map.

As torchvision builds it, so that its weights can be carried over unchanged: v1.5 strides (a
bottleneck strides in its 3x3 convolution), symmetric padding, batch norm with epsilon 1e-5 and a
running average of 0.9. Modules are named as there: conv1, bn1, layer1_0 ... layer4_2.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flm_jax.errors import InputError
from flm_jax.models.layers.batch_norm import BatchNorm
from flm_jax.models.layers.convolution import PointwiseConv, convolve
from flm_jax.models.layers.pooling import max_pool

# Kaiming initialisation for ReLU that keeps the gradients' variance (He et al., ICCV 2015).
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

_EPSILON = 1e-5  # of batch norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, of ResNet-18 and -34."""

    expansion = 1

    features: int
    stride: int
    dtype: DTypeLike
    axis_name: str | None
    folded: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _h _w _c"]:
        conv, norm = _layers(self, train)
        y = conv(self.features, 3, self.stride, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.features, 3, name="conv2")(y)
        y = norm(name="bn2")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, conv, norm))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, of ResNet-50 and deeper."""

    expansion = 4

    features: int
    stride: int
    dtype: DTypeLike
    axis_name: str | None
    folded: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _h _w _c"]:
        conv, norm = _layers(self, train)
        y = conv(self.features, 1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.features, 3, self.stride, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv(self.expansion * self.features, 1, name="conv3")(y)
        y = norm(name="bn3")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, conv, norm))


class ResNet(nn.Module):
    """A residual network. `ResNet()` is ResNet-50.

    Attributes:
        stage_sizes: blocks in each stage; every stage after the first halves the resolution and
            doubles the features.
        bottleneck: bottleneck blocks, as in ResNet-50 and deeper, or basic ones.
        width: features of the stem and of the first stage.
        last_stride: the most pixels of the image that lie between neighbours of the last map:
            stages that would make it coarser keep the resolution; 0: none does. A power of two.
        dtype: of the computation; parameters and batch statistics are float32 whatever it is.
        axis_name: the mapped axis over which batch norm averages, so that N devices normalise by
            the statistics of the whole batch; None for one device's batch alone.
        folded: without batch norm, and with biases: what `fold_batch_norm`'s variables are for.
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    bottleneck: bool = True
    width: int = 64
    last_stride: int = 0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"], *, train: bool) -> Float[Array, "b h w c"]:
        """The last stage's map: h = w = s / 32 and c = 4 * 8 * `width` with four stages of
        bottlenecks, in `dtype`."""
        if self.last_stride and (self.last_stride < 4 or self.last_stride & (self.last_stride - 1)):
            raise InputError(
                f"model.backbone.last_stride={self.last_stride}: expected a power of two from 4 "
                "on, or 0"
            )
        conv, norm = _layers(self, train)
        block = BottleneckBlock if self.bottleneck else BasicBlock
        x = conv(self.width, 7, 2, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        x = max_pool(x)
        total_stride = 4
        for stage, num_blocks in enumerate(self.stage_sizes):
            stride = 2 if stage > 0 and total_stride != self.last_stride else 1
            total_stride *= stride
            for index in range(num_blocks):
                x = block(
                    features=self.width * 2**stage,
                    stride=stride if index == 0 else 1,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    folded=self.folded,
                    name=f"layer{stage + 1}_{index}",
                )(x, train=train)
        return x

    @staticmethod
    def fold_batch_norm(
        params: Mapping[str, Any], batch_stats: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The parameters for `folded=True` that give what these give with `train=False`.

        Each convolution takes the scale and shift of the batch norm after it, as its running
        statistics have them: y = (x - mean) * scale / sqrt(var + epsilon) + bias. Arrays or shapes.
        """
        return _fold(params, batch_stats)

    @staticmethod
    def torch_name(path: Sequence[str]) -> str:
        """The name that torchvision and timm give the tensor of a variable.

        params layer1_0 downsample_bn scale -> layer1.0.downsample.1.weight
        """
        *modules, leaf = path[1:]
        renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
        names = [renamed.get(name, name.replace("_", ".")) for name in modules]
        return ".".join([*names, _TORCH_LEAVES[leaf]])


_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _fold(params, stats):
    folded = {}
    for name, value in params.items():
        norm = name.replace("conv", "bn")
        if "mean" in stats.get(name, {}):  # A batch norm, which its convolution has taken.
            continue
        if norm in stats and norm != name:
            scale = params[norm]["scale"] * jax.lax.rsqrt(stats[norm]["var"] + _EPSILON)
            bias = params[norm]["bias"] - stats[norm]["mean"] * scale
            folded[name] = {"kernel": value["kernel"] * scale, "bias": bias}
        else:
            folded[name] = _fold(value, stats[name]) if name in stats else value
    return folded


def _layers(network, train):
    """Convolution and batch norm with torchvision's constants."""
    conv = partial(_conv, dtype=network.dtype, folded=network.folded)
    if network.folded:
        return conv, lambda name: lambda x: x
    norm = partial(
        BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=_EPSILON,
        dtype=network.dtype,
        axis_name=network.axis_name if train else None,
    )
    return conv, norm


def _conv(features, size, stride=1, *, dtype, folded, name):
    if size == 1 and not folded:
        # The folded network is not trained: a plain convolution takes bias and ReLU in.
        return PointwiseConv(features, stride, dtype, _kernel_init, name=name)
    # Flax's 'SAME' would pad a strided convolution (0, 1) where torchvision pads (1, 1).
    padding = (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=padding,
        use_bias=folded,
        dtype=dtype,
        kernel_init=_kernel_init,
        conv_general_dilated=convolve if size == 3 else None,
        name=name,
    )


def _shortcut(x, features, stride, conv, norm):
    """The identity, or a projection where the block changes the shape."""
    if x.shape[-1] == features and stride == 1:
        return x
    x = conv(features, 1, stride, name="downsample_conv")(x)
    return norm(name="downsample_bn")(x)
