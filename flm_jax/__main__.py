"""Puts 98 points on the faces of photographs: `python -m flm_jax photo.jpg`. Needs no JAX."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from flm_jax.errors import InputError
from flm_jax.inference import exported, pipeline
from flm_jax.inference.detector import load_detector
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.runtime.log import outlive_log
from flm_jax.runtime.signals import exit_on_signals


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flm_jax",
        description="Finds the faces of photographs and puts 98 points on each, with the network "
        "that comes with this package, which has learned from drawings alone.",
        epilog="Writes landmarks.json, landmarks.csv and overlays/ into the output folder.",
    )
    parser.add_argument(
        "input",
        nargs="?",
        type=os.path.expanduser,
        help="an image, folder, glob in quotes, video, stream (rtsp://...) or camera number",
    )
    parser.add_argument(
        "--output",
        default="landmarks",
        type=os.path.expanduser,
        help="folder to write (%(default)s)",
    )
    parser.add_argument(
        "--boxes",
        default="",
        type=os.path.expanduser,
        help="a file of face boxes, or image: each image is one face",
    )
    parser.add_argument(
        "--network", default=exported.SHIPPED, type=os.path.expanduser, metavar="FILE.onnx",
        help="another exported network",
    )  # fmt: skip
    parser.add_argument(
        "--detector", default="centerface", type=os.path.expanduser, help="or a YuNet's ONNX file"
    )
    parser.add_argument(
        "--threshold", type=_number(0, 1), default=0.5, help="least score of a face"
    )
    parser.add_argument(
        "--side", type=int, default=0, help="px that images have for the detector; 0: by their size"
    )
    parser.add_argument(
        "--upright", action="store_true", help="boxes of a file are of images turned by their EXIF"
    )
    parser.add_argument("--no-overlays", action="store_true", help="draw nothing")
    parser.add_argument("--two-pass", action="store_true", help="crop again around the points")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored face")
    parser.add_argument(
        "--smoothing", type=_number(0, math.inf), nargs=2, default=(1.0, 10.0),
        metavar=("CUTOFF", "BETA"),
        help="of a video's points, by the one-euro filter; 0 0: none (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--page",
        type=os.path.expanduser,
        metavar="DIR",
        help="write the page for browsers, and end",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    given = parser.parse_args(arguments)
    if bool(given.page) == bool(given.input):
        parser.error("expected an input, or --page DIR")
    try:
        if given.page:
            _write_page(Path(given.page), Path(given.network))
        else:
            _predict(given)
    except InputError as error:
        sys.exit(f"error: {error}")


def _predict(given: argparse.Namespace) -> None:
    job = pipeline.plan(
        given.input,
        Path(given.output),
        boxes=given.boxes,
        overlays=not given.no_overlays,
        upright=given.upright,
        networks=(given.network, given.detector),
    )
    detect = None if given.boxes else load_detector(given.detector, given.threshold, given.side)
    cutoff, beta = given.smoothing
    pipeline.run(
        job,
        LandmarkPredictor.load(given.network),
        detect,
        tta={
            "two_pass": given.two_pass,
            "flip": given.flip,
            "extra_crops": 0,
            "box_noise": 0.0,
        },
        smoothing={"cutoff": cutoff, "beta": beta},
    )


def _write_page(folder: Path, network: Path) -> None:
    from flm_jax.export import page  # needs the package onnx, for the detector

    if problem := page.write_page(folder, network):
        print(f"the page can't compute without onnxruntime-web in {problem}")
    print(f"{folder}: python -m http.server --directory {folder}")


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= most or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text}: expected a number in [{least}, {most}]")
        return value

    return parse


if __name__ == "__main__":
    outlive_log()
    with exit_on_signals("nothing is written yet"):
        main()
