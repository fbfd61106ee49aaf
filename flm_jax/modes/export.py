"""--mode export: the trained network for other programs, as ONNX, as jax.export and as a page."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray
from tqdm import tqdm

from flm_jax import geometry, landmarks
from flm_jax.config import build, schema
from flm_jax.data import wflw
from flm_jax.data.crop import face_box
from flm_jax.drawing import dataset
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.export import page
from flm_jax.inference import tta
from flm_jax.inference.predictor import restore
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.runtime import work_folder

try:
    import onnxruntime

    from flm_jax.export import onnx_graph
except ModuleNotFoundError as error:
    raise InputError(
        f"--mode export needs the package {error.name}; pip install -e '.[export]' installs it"
    ) from None

# Pixels of the network's input by which an artefact may differ from the network as it was trained.
# Half precision rounds the kernels, so what it costs is measured and told instead.
_TOLERANCE = 0.01
_SINGLE, _HALF, _JAX = "landmarks.onnx", "landmarks_fp16.onnx", "landmarks.jax"

_DRAWN_FACES = 32  # where the evaluated faces are not at hand

# Full single precision on GPUs and TPUs too, whose convolutions round their inputs otherwise.
_PRECISION = "highest"

# Normalised pictures f32[b, s, s, 3] -> landmarks and perhaps scales f32[b, 98, 2 or 3].
_Network = Callable[[Float[ndarray, "b s s 3"]], ndarray]


class _Faces(NamedTuple):
    """Whose pictures the artefacts are compared on."""

    records: Sequence[wflw.Record]
    split: str
    margins: Float[ndarray, "4"]  # of the training's boxes around the landmarks, on average
    mean_shape: Float[ndarray, "98 2"]  # of the training's faces, in sides of their boxes


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes <workdir>/export: landmarks.onnx, landmarks_fp16.onnx, landmarks.jax, landmarks.json,
    which describes them, and the folder browser, for any static server.

    The weights are those of `evaluate.checkpoint`. Nothing is written unless the artefacts agree
    with the network on the faces of `evaluate.split`, or on drawn ones where they are not at hand.

    Raises:
        InputError: the config, the weights, the data or the work folder can't be used, or a package
            is missing.
    """
    schema.check(config)
    build.enable_compilation_cache(config, workdir)
    step, _, state = restore(workdir, str(config.evaluate.checkpoint), config)
    variables = jax.device_get(state.averaged_variables)
    config = config.copy_and_resolve_references()
    config.model.dtype = "float32"
    size = config.data.image_size
    with jax.default_matmul_precision(_PRECISION):
        folded = jax.tree.map(np.asarray, jax.jit(fold_batch_norm)(variables))
        single = onnx_graph.landmark_graph(folded, size)
        half = onnx_graph.landmark_graph(folded, size, half=True)
        serialised = _serialise(config, folded)
        networks = {
            "network": _network(config, variables),
            _SINGLE: _onnx_network(single.SerializeToString()),
            _HALF: _onnx_network(half.SerializeToString()),
            _JAX: _jax_network(serialised),
        }
        with tempfile.TemporaryDirectory() as temporary:
            faces = _faces(config, workdir, Path(temporary) / "faces")
            comparison = _compare(config, networks, faces)
    if not np.isfinite(comparison["network"]["nme"]):
        raise InputError(f"{workdir}: the weights of step {step} predict no finite numbers")
    for name in (_SINGLE, _JAX):
        if not comparison[name]["most_px"] <= _TOLERANCE:
            raise AssertionError(f"{name} differs from the network: {comparison[name]}")
    metadata = _describe(config, workdir, step, faces, comparison)
    for model in (single, half):
        onnx_graph.set_metadata(model, {key: json.dumps(value) for key, value in metadata.items()})
    folder = workdir / "export"
    work_folder.make(folder)
    contents: dict[str, bytes] = {
        _SINGLE: single.SerializeToString(),
        _HALF: half.SerializeToString(),
        _JAX: serialised,
        "landmarks.json": (json.dumps(metadata, indent=2) + "\n").encode(),
    }
    for name, content in contents.items():
        work_folder.write_atomically(folder / name, partial(_write_bytes, content=content))
    _report(folder, comparison, faces)
    problem = page.write(folder / "browser", contents[_HALF], metadata)
    print(f"{folder / 'browser'}: python -m http.server --directory {folder / 'browser'}")
    if problem:
        print(f"the page can't compute without onnxruntime-web: {problem}")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _network(config: ConfigDict, variables: dict[str, Any]) -> _Network:
    """The network as it was trained, batch norm and all, in single precision."""
    model = build.build_model(config)
    apply = jax.jit(lambda images: model.apply(variables, images, train=False))
    return lambda images: np.asarray(apply(images))


def _serialise(config: ConfigDict, folded: dict[str, Any]) -> bytes:
    """images f32[b, s, s, 3] -> {landmarks f32[b, 98, 2], perhaps scale f32[b, 98]}, with any b,
    as `jax.export` serialises it for CPUs, GPUs and TPUs."""
    model = build.build_model(config, folded=True)

    def predict(images: Any) -> dict[str, Any]:
        found: Any = model.apply(folded, images, train=False)
        outputs = {onnx_graph.LANDMARKS: found[..., :2]}
        if config.model.uncertainty:
            outputs[onnx_graph.SCALE] = found[..., 2]
        return outputs

    size = config.data.image_size
    shape = jax.export.symbolic_shape(f"batch, {size}, {size}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    exported = jax.export.export(jax.jit(predict), platforms=("cpu", "cuda", "tpu"))(images)
    return bytes(exported.serialize())


def _onnx_network(model: bytes) -> _Network:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda images: _join(session.run(None, {onnx_graph.INPUT: images}))


def _jax_network(serialised: bytes) -> _Network:
    call = jax.jit(jax.export.deserialize(bytearray(serialised)).call)

    def network(images):
        outputs = call(images)
        return _join(
            [outputs[name] for name in (onnx_graph.LANDMARKS, onnx_graph.SCALE) if name in outputs]
        )

    return network


def _join(outputs: Sequence[Any]) -> ndarray:
    points, *scales = (np.asarray(output) for output in outputs)
    return np.concatenate([points, *(scale[..., None] for scale in scales)], axis=-1)


def _faces(config: ConfigDict, workdir: Path, drawn: Path) -> _Faces:
    root = build.data_root(config, workdir)
    if config.data.drawn.train or (root / wflw.TEST_LIST).is_file():
        splits = build.read_splits(config, workdir)
        records, split = build.select_split(config, workdir, splits), config.evaluate.split
        training: Sequence[wflw.Record] = splits.training + splits.validation
    else:
        print(f"{root}: no faces there, so {_DRAWN_FACES} drawn ones are compared on")
        dataset.draw_dataset(drawn, train=1, test=_DRAWN_FACES, seed=0, workers=0)
        records, split = wflw.read_list(drawn, wflw.TEST_LIST), "drawn"
        training = records
    boxes = np.stack([face_box(record, config.data.box) for record in training])
    points = np.stack([record.landmarks for record in training])
    margins, shape = tta.mean_margins(boxes, points), metrics.mean_shape(points, boxes)
    return _Faces(records, split, margins, shape)


def _compare(
    config: ConfigDict, networks: dict[str, _Network], faces: _Faces
) -> dict[str, dict[str, float]]:
    """For each artefact: NME in per cent, and the largest distance of a coordinate (or scale) from
    the network's, in pixels of the input, and of a coordinate in those of the pictures.

    The first of `networks` is what the others are compared with.
    """
    found: dict[str, list[ndarray]] = {name: [] for name in networks}
    maps, targets = [], []
    batches = build.evaluation_batches(config, faces.records, box="rectangle")
    with contextlib.closing(batches):
        for batch in _with_progress(batches, -(-len(faces.records) // config.batch_size)):
            real = batch["mask"] > 0
            for name, network in networks.items():
                found[name].append(network(batch["image"])[real])
            maps.append(batch["image_from_crop"][real])
            targets.append(geometry.apply(batch["image_from_crop"], batch["landmarks"])[real])
    outputs = {name: np.concatenate(parts) for name, parts in found.items()}
    image_from_crop, target = np.concatenate(maps), np.concatenate(targets)
    home = {
        name: geometry.apply(image_from_crop, output[..., :2]) for name, output in outputs.items()
    }
    first = next(iter(networks))
    return {
        name: {
            "nme": 100 * float(metrics.nme(home[name], target).mean()),
            "most_px": float(np.abs(outputs[name] - outputs[first]).max()),
            "most_image_px": float(np.abs(home[name] - home[first]).max()),
        }
        for name in networks
    }


def _with_progress(batches: Iterable[Any], count: int) -> Iterable[Any]:
    return tqdm(batches, "comparing", count, leave=False, disable=None)


# What a program has to know to use the network.
_NORMALISATION = "value * 2 / 255 - 1, of 8-bit values"
_CROP_RULE = (
    "the face's box (xmin, ymin, xmax, ymax), moved outwards by `margin` pixels, its sides times "
    "`factor`, if `square` the square with the longer side; then x = xmin + (u + 0.5) * (xmax - "
    "xmin) / size, and y alike, takes the input's pixel u to the picture's; bilinear, black "
    "outside; where it shrinks by more than 1.5, the picture is area-reduced first"
)
_MARGINS_RULE = (
    "of such a box around the landmarks: left, top, right, bottom, in widths and heights of theirs"
)
_OUTPUTS = {
    "landmarks": "f32[batch, 98, 2]: x and y in pixels of the input, (0, 0) the centre of the "
    "top-left pixel",
    "scale": "f32[batch, 98]: the absolute error of x and of y to expect, in pixels of the input",
}


def _describe(config, workdir, step, faces, comparison) -> dict[str, Any]:
    """The metadata: how to use the network, what trained it, and how good it is."""
    return {
        "input": {
            "name": onnx_graph.INPUT,
            "size": config.data.image_size,
            "layout": "f32[batch, row, column, channel], RGB",
            "normalisation": _NORMALISATION,
        },
        "crop": {
            "box": config.data.box,
            **config.data.crop.to_dict(),
            "rule": _CROP_RULE,
            "margins": faces.margins.round(4).tolist(),
            "margins_rule": _MARGINS_RULE,
        },
        "outputs": {
            name: _OUTPUTS[name] for name in list(_OUTPUTS)[: 1 + config.model.uncertainty]
        },
        "landmarks": {
            "layout": "WFLW, 98 points",
            "parts": [part._asdict() for part in landmarks.PARTS],
            "mirror": landmarks.MIRROR.tolist(),
            "mean_shape": faces.mean_shape.round(4).tolist(),
        },
        "training": {
            "step": step,
            "loss": config.loss.name,
            "backbone": config.model.backbone.to_dict(),
        },
        "evaluation": _evaluation(config, workdir, step),
        "comparison": {"split": faces.split, "num_faces": len(faces.records), **comparison},
    }


def _evaluation(config: ConfigDict, workdir: Path, step: int) -> dict[str, Any] | None:
    """The figures of these weights, if they have been evaluated."""
    split = config.evaluate.split
    path = workdir / ("evaluation.json" if split == "test" else f"evaluation_{split}.json")
    with contextlib.suppress(OSError, ValueError):
        figures = json.loads(path.read_text())
        if figures["step"] == step:
            return figures
    print(f"{path}: no figures of step {step} there; --mode evaluate before this one adds them")
    return None


def _report(folder: Path, comparison: dict[str, dict[str, float]], faces: _Faces) -> None:
    print(f"{len(faces.records)} faces ({faces.split}): NME {comparison['network']['nme']:.4f} %")
    for name, row in comparison.items():
        if name != "network":
            megabytes = (folder / name).stat().st_size / 1e6
            print(
                f"{folder / name}: {megabytes:.1f} MB, NME {row['nme']:.4f} %, off by at most "
                f"{row['most_px']:.1g} px of the input, {row['most_image_px']:.1g} of the pictures"
            )
