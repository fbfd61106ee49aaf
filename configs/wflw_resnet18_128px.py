"""The strong recipe for one small GPU: ResNet-18 at 128 px, half a batch at a time.

    python launch.py --config configs/wflw_resnet18_128px.py

Not yet measured.
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50_strong


def get_config() -> ConfigDict:
    config = wflw_resnet50_strong.get_config()
    config.batch_size = 32
    config.optimizer.grad_accum_steps = 2
    config.ema_decay = 0.9995  # of steps, which are two an update
    config.data.image_size = 128
    config.model.backbone.stage_sizes = (2, 2, 2, 2)
    config.model.backbone.bottleneck = False
    return config
