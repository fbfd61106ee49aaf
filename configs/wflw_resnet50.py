"""ResNet-50 with Wing loss on WFLW: the recipe of Gotti27/face-landmark-estimation, from scratch.

    python launch.py --config configs/wflw_resnet50.py

Needs WFLW in `data/WFLW` (README). That project starts from torchvision's ImageNet weights and
reports a test loss of 10.1; no weights are shipped here, so `model.pretrained` is '' and training
starts from random ones. Not yet measured on WFLW, nor at 224 px. At 64 px on faces98 (README), two
CPU cores take under an hour for 742 steps (18 epochs), and the test NME is then 12.29 %.
"""

from ml_collections import ConfigDict

# Everything that can be done to a training face; none of it is. Normal draws end at two standard
# deviations (sd); `most` and `least` bound uniform ones.
AUGMENTATION = {
    "hflip": {"probability": 0.0},
    "rotation": {"probability": 0.0, "std": 15.0},  # degrees
    "scale": {"probability": 0.0, "std": 0.1},  # of the factor's logarithm
    "shift": {"probability": 0.0, "std": 0.03},  # sides of the crop
    "aspect": {"probability": 0.0, "std": 0.05},  # of the logarithm of width / height
    "box_noise": {"probability": 0.0, "std": 0.05},  # of each side, in widths and heights of it
    "brightness": {"probability": 0.0, "max": 0.2},  # black to white is 1
    "contrast": {"probability": 0.0, "max": 0.4},  # of the factor's logarithm, either way
    "gamma": {"probability": 0.0, "max": 0.4},  # of the exponent's logarithm, either way
    "saturation": {"probability": 0.0, "max": 0.4},  # of the factor's logarithm, either way
    "grey": {"probability": 0.0},
    "erase_flat": {"probability": 0.0, "max": 0.4},  # its longest side, in sides of the crop
    "erase_noise": {"probability": 0.0, "max": 0.4},
    "paste": {"probability": 0.0, "max": 0.4},  # a piece of another training picture
    "blur": {"probability": 0.0, "max": 0.015},  # sd of the Gaussian, in sides of the crop
    "resolution": {"probability": 0.0, "min": 0.25},  # share of the side that is kept
    "jpeg": {"probability": 0.0, "min": 20},  # quality
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the weights, the split and the order of the faces
    config.batch_size = 64  # over all devices of all processes
    config.num_epochs = 200
    config.ema_decay = 0.0  # of averaged weights, which validation and evaluation use; 0: none
    config.on_nonfinite = "stop"  # at a loss or gradient that is not finite; or skip the step
    config.compilation_cache = ""  # <workdir>/compilation_cache; or another folder, or off

    config.data = ConfigDict()
    config.data.root = "data/WFLW"
    config.data.prepared = ""  # the pictures themselves; or a folder, which --mode prepare fills
    config.data.drawn = ConfigDict({"train": 0, "test": 0, "seed": 0})  # 0: read what is there
    config.data.drop_lines = ()  # of the training list, from 1; 1035 and 2748 are mislabelled
    config.data.validation_fraction = 0.2  # of the training images
    config.data.image_size = 224
    config.data.box = "rectangle"  # as annotated; or landmarks: the box of the true points
    config.data.crop = ConfigDict()
    config.data.crop.margin = 10.0  # px of the picture on each side of the box
    config.data.crop.factor = 1.0  # then, times the sides
    config.data.crop.square = False  # the square with the longer side; else the box is stretched
    config.data.max_unreadable = 0.0  # share of the faces whose pictures may be unreadable
    config.data.num_workers = 0  # processes; 0 reads in threads of the main process
    config.data.num_threads = 0  # of every process; 0: one for each core, at most 16 together
    config.data.augmentation = ConfigDict(AUGMENTATION)

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of the computation; or bfloat16
    config.model.pretrained = ""  # or torchvision's or timm's .safetensors or .pth, README
    config.model.mean_shape = False  # whether the head starts at that of the training faces
    config.model.uncertainty = False  # of every point; the laplace loss learns it
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
    config.optimizer.clip_norm = 0.0  # of the gradients; 0: any
    config.optimizer.backbone_lr_scale = 1.0  # its learning rate, as a share of the head's
    config.optimizer.grad_accum_steps = 1  # batches that make one update
    config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-3})

    config.log = ConfigDict({"every_steps": 10})
    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # besides every epoch's end
    config.checkpoint.keep_last = 2  # the second for when the first is damaged
    config.checkpoint.keep_best = 1  # by validation loss
    config.checkpoint.on_save_error = "stop"  # or continue; without the last one no run succeeds

    config.evaluate = ConfigDict()
    config.evaluate.split = "test"  # or train, validation, or a subset list: largepose, blur, ...
    config.evaluate.checkpoint = "best"  # or last, or a step
    # Beside the rectangle without tta, which evaluation.json always starts with:
    config.evaluate.boxes = ()  # of "rectangle" and "landmarks", each with and without the tta
    config.evaluate.tta = ConfigDict()
    config.evaluate.tta.two_pass = False  # crop again around the points of a first look
    config.evaluate.tta.flip = False  # average with the look at the mirrored face
    config.evaluate.tta.extra_crops = 0  # further looks, at boxes moved and scaled by
    config.evaluate.tta.box_noise = 0.05  # at most so much of their sides
    config.evaluate.box_robustness = (
        False  # NME with rectangles shifted and scaled by 5, 10 and 20 %
    )

    config.predict = ConfigDict()
    config.predict.detector = "centerface"  # of the extra `predict`; or a YuNet's ONNX file
    config.predict.threshold = 0.5  # the least score of a face
    config.predict.overlays = True  # whether the pictures are drawn, with points, boxes and axes
    config.predict.tta = ConfigDict(config.evaluate.tta.to_dict())  # as those; all off
    config.predict.smoothing = ConfigDict()  # of a video's points: the one-euro filter
    config.predict.smoothing.cutoff = 1.0  # Hz, of a still face; 0: the points as they are
    config.predict.smoothing.beta = 10.0  # Hz more for each face side that a point moves in 1 s

    config.benchmark = ConfigDict()
    config.benchmark.against = ""  # or torch, where it is installed
    config.benchmark.repeats = 5  # rounds, in which the measurements take turns
    config.benchmark.seconds = 5.0  # of each measurement in a round, at least
    return config
