"""Learns from drawn faces alone, for photographs: no photograph takes part.

    python launch.py --config configs/drawn_resnet18.py --mode prepare
    python launch.py --config configs/drawn_resnet18.py

A ResNet-18 of 44 instead of 64 features, so that it fits into 11 MB, with each point's visibility.
It starts from the package's own network, so a rerun goes on from its result. On two cores of a Xeon
the drawing took 13 minutes beside light work, and the training 31.

The network of the package, the mean of such a run and of a shorter one after it, has an NME of
8.62 % on faces98's 110 WFLW test faces, 6.81 % on its training list, and 5.11 % on the drawn test
faces (docs/model_card.md).
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50_strong


def get_config() -> ConfigDict:
    config = wflw_resnet50_strong.get_config()
    config.batch_size = 64
    config.num_epochs = 6

    config.data.root = ""  # <workdir>/faces
    config.data.drawn.update({"train": 40000, "test": 500, "seed": 1})
    config.data.prepared = "data/drawn_80px"
    config.data.validation_fraction = 0.02
    config.data.image_size = 80
    # Other light, cameras and styles than the drawing's own; boxes as loose as detectors'.
    config.data.augmentation.update(
        {
            "rotation": {"probability": 0.6, "std": 15.0},
            "scale": {"probability": 1.0, "std": 0.12},
            "shift": {"probability": 1.0, "std": 0.06},
            "aspect": {"probability": 0.5, "std": 0.05},
            "box_noise": {"probability": 0.7, "std": 0.08},
            "brightness": {"probability": 0.5, "max": 0.25},
            "contrast": {"probability": 0.6, "max": 0.6},
            "gamma": {"probability": 0.4, "max": 0.5},
            "saturation": {"probability": 0.4, "max": 0.6},
            "grey": {"probability": 0.2},
            "colour": {"probability": 0.3, "max": 0.3},
            "random_conv": {"probability": 0.2, "max": 3},
            "fourier": {"probability": 0.1, "max": 0.5},
            "posterise": {"probability": 0.03, "min": 4},
            "halftone": {"probability": 0.03, "max": 0.06},
            "noise": {"probability": 0.3, "max": 0.08},
            "erase_flat": {"probability": 0.2, "max": 0.4},
            "erase_noise": {"probability": 0.1, "max": 0.4},
            "paste": {"probability": 0.25, "max": 0.45},
            "blur": {"probability": 0.25, "max": 0.025},
            "resolution": {"probability": 0.2, "min": 0.25},
            "jpeg": {"probability": 0.25, "min": 20},
        }
    )

    config.model.backbone.stage_sizes = (2, 2, 2, 2)
    config.model.backbone.bottleneck = False
    config.model.backbone.width = 44
    config.model.head.visibility = 3.0
    config.model.pretrained = "drawn"
    config.schedule.learning_rate = 1.5e-3
    config.checkpoint.every_steps = 200
    return config
