"""A small ResNet on faces that the program draws itself.

python launch.py --config configs/demo.py
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50


def get_config() -> ConfigDict:
    config = wflw_resnet50.get_config()
    # A small batch and a high rate: on a CPU the number of updates is what is short.
    config.batch_size = 32
    config.num_epochs = 48

    config.data.root = ""  # <workdir>/faces
    config.data.drawn.update({"train": 2600, "test": 250, "seed": 0})
    config.data.validation_fraction = 0.1
    config.data.image_size = 64

    config.model.backbone.stage_sizes = (1, 1, 1)
    config.model.backbone.bottleneck = False
    config.model.backbone.width = 32

    config.schedule = ConfigDict(
        {"name": "cosine", "learning_rate": 2e-2, "warmup": 0.05, "final": 0.0}
    )
    return config
