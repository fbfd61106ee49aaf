"""ResNet-50 with Wing loss on WFLW: the recipe of Gotti27/face-landmark-estimation, from scratch.

    python launch.py --config configs/wflw_resnet50.py

Needs WFLW in `data/WFLW` (docs/data.md). That project starts from torchvision's ImageNet weights
and reports a test loss of 10.1; no weights are shipped here, so `model.pretrained` is '' and
training starts from random ones. Not yet measured on WFLW, nor at 224 px. At 64 px on faces98, two
CPU cores take under an hour for 742 steps (18 epochs), and the test NME is then 12.29 %
(docs/results.md).
"""

from ml_collections import ConfigDict

from flm_jax.config.base import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.batch_size = 64
    config.num_epochs = 200

    config.data.root = "data/WFLW"
    config.data.validation_fraction = 0.2
    config.data.image_size = 224
    config.data.crop.margin = 10.0

    config.model.backbone.update({"stage_sizes": (3, 4, 6, 3), "bottleneck": True, "width": 64})
    config.loss = ConfigDict(
        {"name": "wing", "width": 5.0, "curvature": 0.5, "reference_size": 224}
    )
    config.optimizer.update({"name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-8})
    config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-3})
    return config
