"""The page that finds faces and their points in a browser: its files, with its networks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flm_jax.errors import InputError
from flm_jax.export import folder
from flm_jax.inference import detector, exported

_PAGE = Path(__file__).parent / "browser"

# Of the face detector; the shorter side serves the camera, and faces that fill the image.
_SIDES = (640, 320)


def page_files(model: bytes, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The page's files by name, with a network and, where it is installed, the face detector.

    Args:
        model: ONNX.
        metadata: of `metadata.describe`.
    """
    files = {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir())}
    description = dict(metadata)
    try:
        files["detector.onnx"] = detector_model()
        description["detector"] = {
            "sides": _SIDES,
            "threshold": detector.THRESHOLD,
            "overlap": detector.OVERLAP,
            "stride": detector.STRIDE,
            "outputs": detector.OUTPUTS,
            "margins": detector.margins_to(metadata["crop"]["box"]).round(4).tolist(),
        }
    except InputError as error:
        print(f"the page will not find faces by itself: {error}")
    files["model.onnx"] = model
    files["model.json"] = (json.dumps(description) + "\n").encode()
    return files


def write_page(target: Path, network: Path) -> str | None:
    """Writes the page with the network of an ONNX file.

    Returns:
        Of `folder.write`.

    Raises:
        InputError: the network or the folder can't be used.
    """
    metadata = exported.read_metadata(exported.open_session(network), network)
    return folder.write(target, page_files(network.read_bytes(), metadata), ".")


def detector_model() -> bytes:
    """CenterFace for images of any size: its file says 32 x 32 px, which OpenCV alone ignores.

    Raises:
        InputError: it or the package onnx is not installed.
    """
    path = detector.centerface_path()
    try:
        import onnx
    except ModuleNotFoundError:
        raise InputError(
            "the package onnx is not installed: pip install 'flm-jax[predict]' (in a checkout: "
            "pip install -e '.[predict]')"
        ) from None
    model = onnx.load(path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    # It lists its weights among the inputs, and some that nothing uses.
    inputs = [value for value in graph.input if value.name not in weights]
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.input[:], graph.initializer[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.initializer.extend(initializers)
    for value in (*graph.input, *graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    return bytes(model.SerializeToString())
