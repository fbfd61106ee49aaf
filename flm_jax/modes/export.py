"""--mode export: the trained network for other programs, as ONNX, as jax.export and as a page."""

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.config import build, schema
from flm_jax.config.weights import averaged_runs, load_weights
from flm_jax.data import wflw
from flm_jax.data.crop import face_box
from flm_jax.data.files import read_regular
from flm_jax.drawing import dataset
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.export import folder
from flm_jax.export.metadata import describe
from flm_jax.export.page import page_files
from flm_jax.inference import tta
from flm_jax.models import pretrained, weights_io
from flm_jax.training.progress import Unreadable

try:
    from flm_jax.export import networks, onnx
except ModuleNotFoundError as error:
    raise InputError(
        f"--mode export needs the package {error.name}; pip install -e '.[export]' installs it"
    ) from None

# launch.py passes the config that the weights were trained with, and the overrides.
CONFIG_OF_WEIGHTS = True

# How much an output of a file may differ from the trained network's; pixels of the input for
# landmarks. What rounding the kernels to half precision costs is reported instead.
_TOLERANCE = 0.01
_SINGLE, _HALF, _JAX = "landmarks.onnx", "landmarks_fp16.onnx", "landmarks.jax"
_WEIGHTS = "landmarks.safetensors"  # for other trainings to start from: model.pretrained

_DRAWN_FACES = 32  # where the evaluated faces are not at hand

# Full single precision on GPUs and TPUs too, whose convolutions round their inputs otherwise.
_PRECISION = "highest"


class _Faces(NamedTuple):
    """Whose images the files are compared on.

    Attributes:
        records: the faces.
        split: what they are called.
        margins: of the training's boxes around the landmarks, on average.
        mean_shape: of the training's faces, in sides of their boxes.
    """

    records: Sequence[wflw.Record]
    split: str
    margins: Float[ndarray, "4"]
    mean_shape: Float[ndarray, "98 2"]


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes <workdir>/export: landmarks.onnx, landmarks_fp16.onnx, landmarks.jax, landmarks.json,
    which describes them, landmarks.safetensors, for other trainings to start from, and the folder
    browser, for any static server.

    The weights are those of `evaluate.checkpoint`. Nothing is written unless the files agree with
    the network on the faces of `evaluate.split`, or on drawn ones where they are not at hand.

    Raises:
        InputError: the config, the weights, the data or the work folder can't be used, or a package
            is missing.
    """
    schema.check(config)
    build.enable_compilation_cache(config, workdir)
    step, _, variables = load_weights(workdir, str(config.evaluate.checkpoint), config)
    config = config.copy_and_resolve_references()
    config.model.dtype = "float32"
    size = config.data.image_size
    with jax.default_matmul_precision(_PRECISION):
        trained = build.build_model(config)
        folded = jax.device_get(jax.jit(trained.fold_batch_norm)(variables))
        apply = _inference(build.build_model(config, folded=True))
        single = onnx.convert(apply, folded, size)
        models = {_SINGLE: single, _HALF: onnx.with_half_kernels(single)}
        serialised = networks.serialise(apply, folded, size)
        candidates: dict[str, networks.Network] = {
            "network": jax.jit(lambda images: _inference(trained)(variables, images)),
            **{name: networks.run_onnx(onnx.to_bytes(model)) for name, model in models.items()},
            _JAX: networks.run_serialised(serialised),
        }
        with tempfile.TemporaryDirectory() as temporary:
            faces = _faces(config, workdir, Path(temporary) / "faces")
            comparison = _compare(config, candidates, faces.records)
    _check(comparison, f"{workdir}: the weights of step {step}")
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    metadata = describe(
        input_name=onnx.INPUT,
        image_size=size,
        box=config.data.box,
        crop=config.data.crop.to_dict(),
        margins=faces.margins,
        mean_shape=faces.mean_shape,
        outputs={
            name: output.shape[1:] for name, output in jax.eval_shape(apply, folded, image).items()
        },
        pixel_outputs=trained.head.pixel_outputs,
        training={
            "step": step,
            "loss": config.loss.name,
            "backbone": config.model.backbone.to_dict(),
            "head": config.model.head.to_dict(),
        },
        evaluation=_evaluation(config, workdir, step),
        comparison={"split": faces.split, "num_faces": len(faces.records), **comparison},
    )
    files = {name: onnx.to_bytes(model, metadata) for name, model in models.items()}
    backbone = {name: part["backbone"] for name, part in variables.items() if "backbone" in part}
    tensors = pretrained.name_tensors(jax.device_get(backbone), trained.backbone.torch_name)
    tensors |= pretrained.name_head(jax.device_get(variables["params"]["head"]))
    files |= {_WEIGHTS: weights_io.to_safetensors(tensors)}
    files |= {_JAX: serialised, "landmarks.json": (json.dumps(metadata, indent=2) + "\n").encode()}
    page = page_files(files[_HALF], metadata)
    files |= {f"browser/{name}": content for name, content in page.items()}
    target = workdir / "export"
    problem = folder.write(target, files, "browser")
    _report(target, files, comparison, faces)
    if problem:
        print(f"the page can't compute without onnxruntime-web in {problem}")


def _inference(model) -> networks.Apply:
    return lambda variables, images: model.apply(variables, images, train=False)


def _faces(config: ConfigDict, workdir: Path, drawn: Path) -> _Faces:
    root = build.data_root(config, workdir)
    if config.data.drawn.train or (root / wflw.TEST_LIST).is_file():
        splits = build.read_splits(config, workdir)
        records, split = build.select_split(config, workdir, splits), config.evaluate.split
        training: Sequence[wflw.Record] = splits.training + splits.validation
    else:
        print(f"{root}: no faces there, so the files are compared on {_DRAWN_FACES} drawn ones")
        dataset.draw_dataset(drawn, train=1, test=_DRAWN_FACES, seed=0, workers=0)
        records, split = wflw.read_list(drawn, wflw.TEST_LIST), "drawn"
        training = records
    boxes = np.stack([face_box(record, config.data.box) for record in training])
    points = np.stack([record.landmarks for record in training])
    margins, shape = tta.mean_margins(boxes, points), metrics.mean_shape(points, boxes)
    return _Faces(records, split, margins, shape)


def _compare(
    config: ConfigDict, candidates: Mapping[str, networks.Network], records: Sequence[wflw.Record]
) -> dict[str, dict[str, Any]]:
    """For each network: its NME in per cent; the largest difference of each output from the first
    network's, in pixels of the input for landmarks; that of landmarks in image pixels."""
    points: dict[str, list[ndarray]] = {name: [] for name in candidates}
    differences: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    targets = []
    first = next(iter(candidates))
    unreadable = Unreadable(config.evaluate.split, records, config.data.max_unreadable)
    batches = build.evaluation_batches(
        config, records, box="rectangle", at_unreadable=unreadable.add
    )
    with contextlib.closing(batches):
        count = -(-len(records) // config.batch_size)
        for batch in tqdm(batches, "comparing", count, leave=False, disable=None):
            real = batch["mask"] > 0
            image_from_crop = batch["image_from_crop"][real]
            targets.append(geometry.apply(image_from_crop, batch["landmarks"][real]))
            found = {
                name: {
                    key: np.asarray(value)[real] for key, value in network(batch["image"]).items()
                }
                for name, network in candidates.items()
            }
            for name, outputs in found.items():
                points[name].append(geometry.apply(image_from_crop, outputs["landmarks"]))
                differences[name].append(
                    {key: _largest(outputs[key] - value) for key, value in found[first].items()}
                )
    target = np.concatenate(targets)
    home = {name: np.concatenate(parts) for name, parts in points.items()}
    return {
        name: {
            "nme": 100 * float(metrics.nme(home[name], target).mean()),
            "max_difference": {
                key: float(np.max([row[key] for row in differences[name]]))
                for key in differences[name][0]
            },
            "max_difference_image_px": _largest(home[name] - home[first]),
        }
        for name in candidates
    }


def _largest(values: ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def _check(comparison: dict[str, dict[str, Any]], weights: str) -> None:
    if not np.isfinite(comparison["network"]["nme"]):
        raise InputError(f"{weights} predict no finite numbers")
    if not np.isfinite(comparison[_HALF]["nme"]):
        raise InputError(f"{weights} are too large for half precision, which {_HALF} stores")
    for name in (_SINGLE, _JAX):
        if not all(most <= _TOLERANCE for most in comparison[name]["max_difference"].values()):
            raise AssertionError(f"{name} differs from the network: {comparison[name]}")


def _evaluation(config: ConfigDict, workdir: Path, step: int) -> dict[str, Any] | None:
    """The figures of these weights, if they have been evaluated."""
    split = config.evaluate.split
    path = workdir / ("evaluation.json" if split == "test" else f"evaluation_{split}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        figures = json.loads(read_regular(path))
        runs = averaged_runs(config)
        if figures["step"] == step and figures.get("average_with", []) == runs:
            return figures
    print(f"{path}: no figures of step {step} there; --mode evaluate before this one adds them")
    return None


def _report(
    target: Path, files: Mapping[str, bytes], comparison: dict[str, dict[str, Any]], faces: _Faces
) -> None:
    print(f"{len(faces.records)} faces ({faces.split}): NME {comparison['network']['nme']:.4f} %")
    for name in (_SINGLE, _HALF, _JAX):
        row = comparison[name]
        print(
            f"{target / name}: {len(files[name]) / 1e6:.1f} MB, NME {row['nme']:.4f} %, off by at "
            f"most {row['max_difference']['landmarks']:.1g} px of the input, "
            f"{row['max_difference_image_px']:.1g} of the images"
        )
    print(f"{target / 'browser'}: python -m http.server --directory {target / 'browser'}")
