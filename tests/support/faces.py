"""Annotation lists, crops and prepared faces for tests."""

import numpy as np

from configs import wflw_resnet50, wflw_resnet50_strong
from flm_jax.data import augmentation, prepared, prepared_face, wflw

CROP = {"margin": 10.0}
OFF = wflw_resnet50.get_config().data.augmentation.to_dict()
TURNED = {**OFF, "rotation": {"probability": 1.0, "std": 15.0}}
STRONG = wflw_resnet50_strong.get_config().data.augmentation.to_dict()
CROPS = [
    {"margin": 10.0, "factor": 1.0, "square": False},
    {"margin": 0.0, "factor": 1.25, "square": True},
    {"margin": 0.0, "factor": 0.7, "square": False},
]


def make_fields(name="a/face.jpg"):
    """The fields of an annotation line."""
    points = np.random.default_rng(0).uniform(20, 80, (98, 2)).astype(np.float32)
    flags = np.array([True, False, False, True, False, True])
    box = np.array([10, 5, 90, 95], np.float32)
    return wflw.format_line(points, box, flags, name).split()


def line_of(fields):
    return " ".join(fields).encode()


def write_list(root, lines, images=("a/face.jpg",)):
    """Writes a training list, and images that are there but hold nothing."""
    path = root / wflw.TRAIN_LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    for image in images:
        (root / wflw.IMAGES / image).parent.mkdir(parents=True, exist_ok=True)
        (root / wflw.IMAGES / image).write_bytes(b"x")
    return path


def read_lists(root):
    return {name: wflw.read_list(root, name) for name in (wflw.TRAIN_LIST, wflw.TEST_LIST)}


def make_record(path, landmarks=None):
    """A record of an image, on line 7."""
    return wflw.Record(
        list_path="list.txt",
        line=7,
        image_name=path.name,
        image_path=str(path),
        landmarks=np.zeros((98, 2), np.float32) if landmarks is None else landmarks,
        box=np.array([0, 0, 10, 10], np.float32),
        attributes=np.zeros(6, bool),
    )


def address(array):
    """Where its memory starts."""
    return array.__array_interface__["data"][0]


def blob_position(image):
    """The centre of mass of what is bright, in pixels (x, y)."""
    weight = image[..., 0].astype(float)
    y, x = np.indices(weight.shape)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def uses_of(image_size=32, crop=0, box="rectangle", settings=STRONG):
    """What prepared faces have to be good for."""
    return prepared_face.Uses(
        image_size=image_size,
        box=box,
        crop=CROPS[crop],
        reach=augmentation.largest_reach(settings),
        zoom=augmentation.largest_zoom(settings),
    )


def fail(*face):
    raise AssertionError(face)


def prepare(folder, root, uses, at_unreadable=fail, stopped=lambda: False):
    return prepared.prepare(
        *(folder, root, read_lists(root), uses),
        num_threads=2,
        at_unreadable=at_unreadable,
        stopped=stopped,
    )


def attach(folder, root, uses):
    return prepared.attach(folder, root, read_lists(root), uses)
