"""The recipe to use: ResNet-50, voting cells, L1 loss, augmentation, AdamW, averaged weights.

    python launch.py --config configs/wflw_resnet50_strong.py
    python launch.py --config configs/wflw_resnet50_strong.py --mode preview

Needs WFLW in `data/WFLW` (docs/data.md). With `--config.model.pretrained=FILE` it starts from
ImageNet weights, and then `--config.optimizer.backbone_lr_scale=0.3` keeps more of them. Not yet
measured on WFLW. On faces98, 40 epochs in bfloat16, with the head `regression`, have a validation
NME of 6.28 % (docs/results.md, on a GPU); its parts are measured with ResNet-18 (the ladder there).
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50


def get_config() -> ConfigDict:
    config = wflw_resnet50.get_config()
    config.ema_decay = 0.999

    config.data.validation_fraction = 0.1
    config.data.image_size = 256
    config.data.crop.margin = 0.0
    config.data.crop.factor = 1.25  # the rectangles leave points outside
    config.data.crop.square = True
    config.data.augmentation.update(
        {
            "hflip": {"probability": 0.5},
            "rotation": {"probability": 0.7, "std": 18.0},
            "scale": {"probability": 1.0, "std": 0.08},
            "shift": {"probability": 1.0, "std": 0.03},
            "aspect": {"probability": 0.5, "std": 0.04},
            "box_noise": {"probability": 0.5, "std": 0.04},
            "brightness": {"probability": 0.5, "max": 0.2},
            "contrast": {"probability": 0.5, "max": 0.4},
            "gamma": {"probability": 0.3, "max": 0.4},
            "saturation": {"probability": 0.3, "max": 0.5},
            "grey": {"probability": 0.1},
            "erase_flat": {"probability": 0.2, "max": 0.4},
            "erase_noise": {"probability": 0.1, "max": 0.4},
            "paste": {"probability": 0.2, "max": 0.4},
            "blur": {"probability": 0.15, "max": 0.012},
            "resolution": {"probability": 0.15, "min": 0.25},
            "jpeg": {"probability": 0.15, "min": 25},
        }
    )

    config.model.mean_shape = True
    config.model.head.name = "anchors"

    # mmpose's ablation ends at L1: its best loss has no other piece on normalised targets.
    config.loss = ConfigDict({"name": "l1", "reference_size": 224})
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05  # of kernels
    config.schedule = ConfigDict(
        {"name": "cosine", "learning_rate": 1e-3, "warmup": 0.02, "final": 0.0}
    )

    config.evaluate.boxes = ("rectangle", "landmarks")
    config.evaluate.tta.two_pass = True
    config.evaluate.tta.flip = True
    config.evaluate.box_robustness = True
    return config
