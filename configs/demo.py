"""A small ResNet on faces that the program draws itself.

python launch.py --config configs/demo.py
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50


def get_config() -> ConfigDict:
    config = wflw_resnet50.get_config()
    config.num_epochs = 30

    config.data.root = ""  # <workdir>/faces
    config.data.drawn = ConfigDict({"train": 2000, "test": 250, "seed": 0})
    config.data.image_size = 64

    config.model.backbone.stage_sizes = (2, 2, 2, 2)
    config.model.backbone.bottleneck = False
    config.model.backbone.width = 24

    config.schedule = ConfigDict(
        {"name": "cosine", "learning_rate": 2e-3, "warmup": 0.05, "final": 0.0}
    )
    return config
