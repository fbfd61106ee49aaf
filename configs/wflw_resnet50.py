"""ResNet-50 with Wing loss on WFLW: the recipe of Gotti27/face-landmark-estimation, from scratch.

    python launch.py --config configs/wflw_resnet50.py

Needs WFLW in `data/WFLW` (README). That project starts from torchvision's ImageNet weights and
reports a test loss of 10.1; no weights are shipped here, so `model.pretrained` is '' and training
starts from random ones. Not yet measured on WFLW, nor at 224 px. At 64 px on faces98 (README), two
CPU cores take under an hour for 742 steps (18 epochs), and the test NME is then 12.29 %.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the weights, the split and the order of the faces
    config.batch_size = 64  # over all devices of all processes
    config.num_epochs = 200
    config.non_finite = "stop"  # at a loss or gradient that is not finite; or skip the step
    config.compilation_cache = ""  # <workdir>/compilation_cache; or another folder, or off

    config.data = ConfigDict()
    config.data.root = "data/WFLW"
    config.data.drawn = ConfigDict({"train": 0, "test": 0, "seed": 0})  # 0: read what is there
    config.data.drop_lines = ()  # of the training list, from 1; 1035 and 2748 are mislabelled
    config.data.validation_fraction = 0.2  # of the training images
    config.data.image_size = 224
    config.data.crop = ConfigDict({"margin": 10.0})  # px on each side of the rectangle
    config.data.max_unreadable = 0.0  # share of the faces whose pictures may be unreadable
    config.data.num_workers = 0  # processes; 0 reads in threads of the main process
    config.data.num_threads = 4  # of every process

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of the computation; or bfloat16
    config.model.pretrained = ""
    config.model.backbone = ConfigDict()
    config.model.backbone.stage_sizes = (3, 4, 6, 3)
    config.model.backbone.bottleneck = True
    config.model.backbone.width = 64

    config.loss = ConfigDict()
    config.loss.name = "wing"
    config.loss.width = 5.0
    config.loss.curvature = 0.5
    config.loss.reference_size = 224  # the loss is taken in pixels of a crop of this size

    config.optimizer = ConfigDict({"name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-8})
    config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-3})

    config.log = ConfigDict({"every_steps": 10})
    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # besides every epoch's end
    config.checkpoint.keep_last = 2  # the second for when the first is damaged
    config.checkpoint.keep_best = 1  # by validation loss
    config.checkpoint.failed_save = "stop"  # or continue; without the last one no run succeeds

    config.evaluate = ConfigDict()
    config.evaluate.split = "test"  # or train, validation, or a subset list: largepose, blur, ...
    config.evaluate.checkpoint = "best"  # or last, or a step
    return config
