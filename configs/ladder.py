"""The original's recipe, changed one thing at a time, for ResNet-18 at 48 px.

    python launch.py --config configs/ladder.py:RUNG --config.data.root=FOLDER --workdir WORKDIR

RUNG is a name in `CHANGES`; it has the changes down to that name. docs/results.md has the outcomes
so far. All have 20 epochs, the same faces and the same validation faces; --config.seed=1 repeats
them otherwise.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import wflw_resnet50


def get_config(rung: str = "adamw") -> ConfigDict:
    if rung not in CHANGES:
        raise ValueError(f"ladder.py:{rung}: expected one of {', '.join(CHANGES)}")
    config = wflw_resnet50.get_config()
    config.num_epochs = 20
    config.data.image_size = 48
    config.model.backbone.stage_sizes = (2, 2, 2, 2)
    config.model.backbone.bottleneck = False
    for name, change in CHANGES.items():
        change(config)
        if name == rung:
            break
    return config


def _cosine(config):
    config.schedule = ConfigDict(
        {"name": "cosine", "learning_rate": 1e-3, "warmup": 0.05, "final": 0.0}
    )


def _rate(config):
    config.schedule.learning_rate = 2e-3


def _mean_shape(config):
    config.model.mean_shape = True


def _square(config):
    config.data.crop.update({"margin": 0.0, "factor": 1.15, "square": True})


def _stretched(config):
    config.data.crop.square = False


def _l1(config):
    config.loss = ConfigDict({"name": "l1", "reference_size": 224})


def _adamw(config):
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05


def _average(config):
    config.ema_decay = 0.99


def _hflip(config):
    config.data.augmentation.hflip.probability = 0.5


def _geometry(config):
    augmentation = config.data.augmentation
    augmentation.rotation.update({"probability": 0.5, "std": 10.0})
    augmentation.scale.update({"probability": 0.5, "std": 0.05})
    augmentation.shift.update({"probability": 0.5, "std": 0.02})


def _light(config):
    config.data.augmentation.brightness.probability = 0.3
    config.data.augmentation.contrast.probability = 0.3


CHANGES: dict[str, Callable[[ConfigDict], None]] = {
    "seed": lambda config: None,
    "mean_shape": _mean_shape,
    "average": _average,
    "cosine": _cosine,
    "rate": _rate,
    "hflip": _hflip,
    "geometry": _geometry,
    "square": _square,
    # Not yet measured:
    "stretched": _stretched,
    "light": _light,
    "l1": _l1,
    "adamw": _adamw,
}
