"""What each change of the strong recipe is worth: ResNet-18 on 64 px for 30 epochs.

    python launch.py --config configs/ladder.py:RUNG --config.data.root=FOLDER --workdir WORKDIR

RUNG is a name in `RUNGS`. `original` is the recipe of `wflw_resnet50.py` and `strong` that of
`wflw_resnet50_strong.py`, both from random weights; `drawn` is the strong one from the network of
the package. Every other rung is `drawn` with one change, so that rungs compare with it and not with
each other; but `regression`, `simcc` and `laplace` start from its backbone alone, as their heads
are others, and `simcc` has the finer map of `stride_16` too, and no mean shape to start at. All
have the same training and validation faces; `--config.seed=1` repeats a rung with other weights and
another order. docs/results.md has the outcomes.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import wflw_resnet50, wflw_resnet50_strong

# Augmentation of light, occlusion and sharpness, whose probabilities two rungs change together.
_APPEARANCE = (
    *("brightness", "contrast", "gamma", "saturation", "grey", "erase_flat", "erase_noise"),
    *("paste", "blur", "resolution", "jpeg"),
)


def get_config(rung: str = "drawn") -> ConfigDict:
    if rung not in RUNGS:
        raise ValueError(f"ladder.py:{rung}: expected one of {', '.join(RUNGS)}")
    if rung == "original":
        config = wflw_resnet50.get_config()
    else:
        config = wflw_resnet50_strong.get_config()
        config.model.pretrained = "drawn"
    config.num_epochs = 30
    config.data.image_size = 64
    config.data.validation_fraction = 0.1
    config.model.backbone.stage_sizes = (2, 2, 2, 2)
    config.model.backbone.bottleneck = False
    config.model.backbone.width = 44  # that of the package's backbone
    RUNGS[rung](config)
    return config


def _unchanged(config):
    pass


def _strong(config):
    config.model.pretrained = ""


def _stride_16(config):
    config.model.backbone.last_stride = 16


def _simcc(config):
    _stride_16(config)
    config.model.head.name = "simcc"
    config.model.mean_shape = False


def _regression(config):
    config.model.head.name = "regression"


def _laplace(config):
    config.model.head.name = "laplace"
    config.loss.name = "laplace"


def _wing(config):
    config.loss = wflw_resnet50.get_config().loss


def _smooth_l1(config):
    config.loss = ConfigDict({"name": "smooth_l1", "delta": 2.0, "reference_size": 224})


def _milder(config):
    for name in _APPEARANCE:
        config.data.augmentation[name].probability *= 0.5


def _stronger(config):
    for name in _APPEARANCE:
        config.data.augmentation[name].probability *= 1.5


def _rotation_30(config):
    config.data.augmentation.rotation.std = 30.0


def _rotation_10(config):
    config.data.augmentation.rotation.std = 10.0


def _no_average(config):
    config.ema_decay = 0.0


def _factor_115(config):
    config.data.crop.factor = 1.15


def _stretched(config):
    config.data.crop.square = False


def _twice_the_rate(config):
    config.schedule.learning_rate *= 2


def _mixed(config):
    config.data.drawn.update({"train": 6000, "test": 0, "seed": 2, "share": 0.33})


RUNGS: dict[str, Callable[[ConfigDict], None]] = {
    "original": _unchanged,
    "strong": _strong,
    "drawn": _unchanged,
    "stride_16": _stride_16,
    "simcc": _simcc,
    "regression": _regression,
    "laplace": _laplace,
    "wing": _wing,
    "smooth_l1": _smooth_l1,
    "milder": _milder,
    "stronger": _stronger,
    "rotation_30": _rotation_30,
    "rotation_10": _rotation_10,
    "no_average": _no_average,
    "factor_115": _factor_115,
    "stretched": _stretched,
    "twice_the_rate": _twice_the_rate,
    "mixed": _mixed,
}
