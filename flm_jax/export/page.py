"""The browser page's folder: the page, a network, and onnxruntime-web, which runs it.

onnxruntime-web comes from npm in one pinned version; nothing of it is part of this project.
"""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = "onnxruntime-web@1.30.0"
# SHA-256 of the loader, the WebAssembly that it loads, their version, and their licence.
_RUNTIME = {
    "dist/ort.wasm.bundle.min.mjs": (
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"
    ),
    "dist/ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "package.json": "16f69f755509990539aeb1c8445884960e91adcacab2e8dca8e44ee43601df5c",
    "README.md": "3089f92ffb02d63365f05d870df5c6ac9bbaed096943b5b4fe55afd9b7a624f8",
}

_PAGE = Path(__file__).parent / "browser"


def write(folder: Path, model: bytes, metadata: Mapping[str, Any]) -> None:
    """Writes the page, model.onnx and model.json into a new folder, for any static server.

    Args:
        folder: what is to be made.
        model: the ONNX model.
        metadata: of `metadata.describe`, which the page reads.
    """
    shutil.copytree(_PAGE, folder)
    (folder / "model.onnx").write_bytes(model)
    (folder / "model.json").write_text(json.dumps(metadata) + "\n")


def has_runtime(vendor: Path) -> bool:
    """Whether the folder holds onnxruntime-web, whole and of the pinned version."""
    paths = {vendor / Path(name).name: digest for name, digest in _RUNTIME.items()}
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
        for path, digest in paths.items()
    )


def fetch_runtime(vendor: Path) -> str | None:
    """Makes the folder and writes onnxruntime-web into it.

    Returns:
        Why that is impossible, and what to do; None if it is there.
    """
    npm = shutil.which("npm")
    if npm is None:
        return (
            f"npm is not installed; install it and export again, or put the files of {_PACKAGE} "
            f"there: {', '.join(_RUNTIME)}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", _PACKAGE, "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return f"npm pack {_PACKAGE} took more than 600 s; export again with a network"
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip() or str(error)).splitlines()[-1]
            return f"npm pack {_PACKAGE} failed ({said}); export again with a network"
        unpacked = Path(temporary) / "package"
        with contextlib.suppress(tarfile.TarError, KeyError):
            (archive,) = Path(temporary).glob("*.tgz")
            with tarfile.open(archive) as files:
                members = [files.getmember(f"package/{name}") for name in _RUNTIME]
                files.extractall(temporary, members, filter="data")
        vendor.mkdir()
        for name in _RUNTIME:
            if (unpacked / name).is_file():
                shutil.copyfile(unpacked / name, vendor / Path(name).name)
    if not has_runtime(vendor):
        shutil.rmtree(vendor)
        return f"npm pack {_PACKAGE} brought other files than the pinned ones"
    return None
