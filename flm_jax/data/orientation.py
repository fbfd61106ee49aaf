"""Finds images whose points may be those of a turned image, by their headers alone."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flm_jax.data.wflw import Record

_ORIENTATION = 274  # the EXIF tag: 1 is upright, and 5 to 8 swap the sides

# A face with a larger share of its points outside of the image is no face at its edge.
_MAX_OUTSIDE = 0.5


def warn_of_suspects(records: Sequence[Record]) -> None:
    """Prints `describe_suspects`."""
    for sentence in describe_suspects(records):
        print(f"warning: {sentence}")


def describe_suspects(records: Sequence[Record]) -> list[str]:
    """One sentence on images whose EXIF orientation is not applied, and one on faces that lie
    outside of their image; as far as there are such.

    A header takes 0.12 ms (10,000 images: 1.2 s). What can't be read is left to the loader.
    """
    turned: dict[str, Record] = {}
    outside = []
    headers: dict[str, tuple[int, int, int]] = {}
    for record in records:
        path = record.image_path
        if path not in headers:
            headers[path] = _read_header(path)
        width, height, orientation = headers[path]
        if record.upright and orientation >= 5:
            width, height = height, width
        if orientation != 1 and not record.upright:
            turned.setdefault(path, record)
        x, y = record.landmarks.T
        misses = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
        if width and np.mean(misses) > _MAX_OUTSIDE:
            outside.append(record)
    sentences = []
    if turned:
        sentences.append(
            f"{len(turned)} of {len(headers)} images have an EXIF orientation and are read as they "
            f"are stored, the first: {next(iter(turned.values())).place}. If the lists mean the "
            "upright images, as most programs show them, set --config.data.exif_upright=True; "
            "--mode preview shows the points"
        )
    if outside:
        sentences.append(
            f"{len(outside)} of {len(records)} faces lie outside of their image, the first: "
            f"{outside[0].place}. Their points may be those of the image turned or of another size"
        )
    return sentences


def is_turned(path: str) -> bool:
    """Whether the image's EXIF orientation is another than upright."""
    return _read_header(path)[2] != 1


def _read_header(path: str) -> tuple[int, int, int]:
    """Width, height and EXIF orientation; (0, 0, 1) where they can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the size, or of damage
            with Image.open(path) as image:
                # In a PNG Pillow would look for it behind the pixels.
                exif = image.getexif() if "exif" in image.info else {}
                orientation = exif.get(_ORIENTATION, 1)
            return *image.size, orientation if orientation in range(2, 9) else 1  # 0: not known
    except Exception:  # Pillow raises all kinds of errors.
        return 0, 0, 1
