"""Draws a video of a face whose pose is known, for the tests and for measuring jitter.

    python -m flm_jax.drawing.video still.avi --still
    python -m flm_jax.drawing.video turning.avi

One face turns its head from side to side and wanders, or stays as it is; every frame has its own
sensor noise. Nothing of it comes from a photograph.
"""

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.drawing import camera, scene
from flm_jax.drawing.parameters import HeadParameters
from flm_jax.drawing.render import render_head
from flm_jax.drawing.sampling import sample_head
from flm_jax.drawing.surface import Surface, landmarks_in_space, project, rotation
from flm_jax.errors import InputError

_UNIT, _NOISE = 65.0, 6.0  # Pixels in half a head's width; sd of the noise, of 255.
_MOST_YAW, _PATH = 35.0, (60.0, 20.0)  # Degrees; pixels to each side.


def draw_video(
    path: str | Path, *, frames: int, rate: float = 25.0, still: bool = False, seed: int = 0
) -> Float[ndarray, "n 98 2"]:
    """Writes a video as Motion JPEG (.avi) and returns the landmarks of its frames, in pixels.

    Args:
        path: of the file.
        frames: how many there are.
        rate: frames in a second.
        still: whether the face stays as it is.
        seed: of the face and of the noise.

    Raises:
        InputError: the file can't be written.
    """
    rng = np.random.default_rng(seed)
    width, height = 480, 360
    middle = np.array([width, height]) / 2
    parameters = dataclasses.replace(
        sample_head(rng), yaw=0.0, pitch=0.0, roll=0.0, scarf=0.0, glasses="none"
    )
    background = scene.background(rng, height, width)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (width, height))
    if not writer.isOpened():
        raise InputError(f"{path}: can't be written; expected a name that ends in .avi")
    landmarks: list[ndarray] = []
    for frame in range(frames):
        phase = 0.0 if still else 2 * np.pi * frame / (4 * rate)
        head = dataclasses.replace(parameters, yaw=_MOST_YAW * float(np.sin(phase)))
        drawn = render_head(head, _UNIT * _width(head))
        image = background.copy()
        shift = np.array(_PATH) * (np.sin(phase / 2), np.sin(phase))
        corner = np.round(middle + shift - drawn.landmarks.mean(axis=0))
        scene.paste(image, drawn, *corner.astype(int).tolist())
        landmarks.append(drawn.landmarks + corner.astype(np.float32))
        writer.write(np.ascontiguousarray(camera.add_noise(rng, image, _NOISE)[..., ::-1]))
    writer.release()
    return np.stack(landmarks)


def _width(head: HeadParameters) -> float:
    """From the leftmost landmark to the rightmost, in half head widths."""
    turn = rotation(head.yaw, head.pitch, head.roll)
    return float(np.ptp(project(landmarks_in_space(Surface(head), turn))[:, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a video of a face.")
    parser.add_argument("path", type=Path, help="the .avi to write")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--still", action="store_true", help="the face stays as it is")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        draw_video(
            arguments.path, frames=arguments.frames, still=arguments.still, seed=arguments.seed
        )
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
