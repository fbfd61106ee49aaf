"""Every key that a config may hold, with its meaning and a neutral default. Recipes start here."""

from ml_collections import ConfigDict

# Everything that can be done to a training face; none of it is by default. Normal draws end at two
# standard deviations (std); `max` and `min` bound uniform ones.
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
    # Another training image from so far off the face on, in sizes of the face.
    "surroundings": {"probability": 0.0, "max": 0.3},
    "erase_flat": {"probability": 0.0, "max": 0.4},  # its longest side, in sides of the crop
    "erase_noise": {"probability": 0.0, "max": 0.4},
    "paste": {"probability": 0.0, "max": 0.4},  # a piece of another training image
    # Style: another look of the same shapes.
    "colour": {"probability": 0.0, "max": 0.3},  # of each channel's gain, and half of its offset
    "random_conv": {"probability": 0.0, "max": 5},  # px, the side of a random kernel
    "fourier": {"probability": 0.0, "max": 0.5},  # share of another training image's amplitudes
    "posterise": {"probability": 0.0, "min": 4},  # levels of each channel
    "halftone": {"probability": 0.0, "max": 0.06},  # distance of the dots, in sides of the crop
    "noise": {"probability": 0.0, "max": 0.08},  # std of the Gaussian; black to white is 1
    "blur": {"probability": 0.0, "max": 0.015},  # std of the Gaussian, in sides of the crop
    "resolution": {"probability": 0.0, "min": 0.25},  # share of the side that is kept
    "jpeg": {"probability": 0.0, "min": 20},  # quality
}


def base_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the weights, the order of the faces and their augmentation
    config.batch_size = 64  # over all devices of all processes
    config.num_epochs = 1
    config.ema_decay = 0.0  # of the averaged weights that validation and evaluation use; 0: none
    config.on_nonfinite = "stop"  # at a loss or gradient that is not finite; or skip the step
    config.on_new_schedule = "stop"  # or continue, where more epochs change a resumed run's rate
    config.compilation_cache = ""  # <workdir>/compilation_cache; or another folder, or off

    config.data = ConfigDict()
    config.data.root = ""  # a folder in WFLW's layout; "": <workdir>/faces, for drawn faces
    config.data.prepared = ""  # read the images themselves; or a folder that --mode prepare fills
    # Drawn into the root if that is not there; train=0: none are. With a share they are mixed into
    # the root's training faces instead, lie in <workdir>/faces, and make that share of an epoch.
    config.data.drawn = ConfigDict({"train": 0, "test": 0, "seed": 0, "share": 0.0})
    config.data.drop_lines = ()  # of the training list, from 1; 1035 and 2748 are mislabelled
    config.data.validation_fraction = 0.2  # of the training images
    config.data.split_seed = 0  # which of them
    config.data.exif_upright = False  # whether the lists mean images turned as their EXIF says
    config.data.image_size = 224
    config.data.box = "rectangle"  # as annotated; or landmarks: the box of the true points
    config.data.crop = ConfigDict()
    config.data.crop.margin = 0.0  # px of the image on each side of the box
    config.data.crop.factor = 1.0  # then, times the sides
    config.data.crop.square = False  # the square with the longer side; else the box is stretched
    config.data.max_unreadable = 0.0  # share of the faces whose images may be unreadable
    config.data.num_workers = 0  # processes; 0 reads in threads of the main process
    config.data.num_threads = 0  # of every process; 0: one for each core, at most 16 together
    config.data.augmentation = ConfigDict(AUGMENTATION)

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of the computation; or bfloat16
    # Of the backbone: a .safetensors or .pth file (docs/training.md); or drawn: that of the network
    # which comes with the package.
    config.model.pretrained = ""
    config.model.mean_shape = False  # whether the head starts at that of the training faces
    config.model.backbone = ConfigDict({"name": "resnet"})
    config.model.backbone.stage_sizes = (3, 4, 6, 3)
    config.model.backbone.bottleneck = True
    config.model.backbone.width = 64
    config.model.backbone.last_stride = 0  # px between neighbours of the last map, at most; 0: any
    # Or anchors, by votes of the last map's cells; laplace, with a scale per point; simcc, with a
    # confidence (models/heads.py). Each with `visibility`, the weight of that loss; 0: it is not
    # predicted.
    config.model.head = ConfigDict({"name": "regression", "visibility": 0.0})

    config.loss = ConfigDict({"name": "l1", "reference_size": 224})  # px of a crop of that size

    config.optimizer = ConfigDict({"name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-8})
    config.optimizer.clip_norm = 0.0  # of the gradients; 0: any
    config.optimizer.backbone_lr_scale = 1.0  # its learning rate, as a share of the head's
    config.optimizer.grad_accum_steps = 1  # batches that make one update
    config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-3})

    config.log = ConfigDict({"every_steps": 10})
    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # besides every epoch's end
    config.checkpoint.keep_last = 2  # the second in case the first is damaged
    config.checkpoint.keep_best = 1  # by validation loss
    config.checkpoint.on_save_error = "stop"  # or continue; without the last no run succeeds

    config.evaluate = ConfigDict()
    config.evaluate.split = "test"  # or train, validation, or a subset list: largepose, blur, ...
    config.evaluate.checkpoint = "best"  # or last, or a step
    # Work folders whose weights are averaged with this one's, in evaluate, predict and export.
    config.evaluate.average_with = ()
    # Beside the rectangle without test-time augmentation, which evaluation.json starts with:
    config.evaluate.boxes = ()  # of "rectangle" and "landmarks", each with and without tta
    config.evaluate.tta = ConfigDict()
    config.evaluate.tta.two_pass = False  # crop again around the points of a first pass
    config.evaluate.tta.flip = False  # average with the prediction for the mirrored face
    config.evaluate.tta.extra_crops = 0  # with boxes moved and scaled at random
    config.evaluate.tta.box_noise = 0.05  # by at most so much of their sides
    config.evaluate.box_robustness = False  # NME of rectangles moved and scaled by 5, 10 and 20 %

    config.predict = ConfigDict()
    config.predict.detector = "centerface"  # of the extra `predict`; or a YuNet's ONNX file
    config.predict.threshold = 0.5  # the least score of a face
    config.predict.side = 0  # px, of images for the detector; 0: 640, and large ones also halved
    config.predict.overlays = True  # whether images with points, boxes and axes are written
    config.predict.tta = ConfigDict(config.evaluate.tta.to_dict())
    config.predict.smoothing = ConfigDict()  # of a video's points: the one-euro filter
    config.predict.smoothing.cutoff = 1.0  # Hz, of a still face; 0: the points as they are
    config.predict.smoothing.beta = 10.0  # Hz more for each face side that a point moves in 1 s

    config.benchmark = ConfigDict()
    config.benchmark.against = ""  # or torch, where it is installed
    config.benchmark.repeats = 5  # rounds, in which the measurements take turns
    config.benchmark.seconds = 5.0  # of each measurement in a round, at least
    return config
