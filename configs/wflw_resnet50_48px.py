"""The strong recipe for 40 epochs at 48 px: two CPU cores, one to two hours on 3,400 faces.

    python launch.py --config configs/wflw_resnet50_48px.py --config.data.root=FOLDER

A short training has no time for heavy augmentation: it is milder here, and the rate higher. Not yet
measured.
"""

from ml_collections import ConfigDict

from configs import wflw_resnet50_strong


def get_config() -> ConfigDict:
    config = wflw_resnet50_strong.get_config()
    config.num_epochs = 40
    config.average_decay = 0.995
    config.data.image_size = 48
    config.data.crop.factor = 1.15  # few pixels: none for what is far from the face
    augmentation = config.data.augmentation
    for name in augmentation:
        augmentation[name].probability = 0.0
    augmentation.mirror.probability = 0.5
    augmentation.rotation.update({"probability": 0.5, "sd": 10.0})
    augmentation.scale.update({"probability": 0.5, "sd": 0.05})
    augmentation.shift.update({"probability": 0.5, "sd": 0.02})
    augmentation.brightness.probability = 0.3
    augmentation.contrast.probability = 0.3
    config.schedule.learning_rate = 2e-3
    config.schedule.warmup = 0.05
    return config
