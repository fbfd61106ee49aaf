"""The folder for the browser: the page of flm_jax/browser, a network, and what runs it.

onnxruntime-web comes from npm in one pinned version; nothing of it is part of this project.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RUNTIME, _VERSION = "onnxruntime-web", "1.30.0"
_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The loader, the WebAssembly that it loads, and what says which version they are, and its licence.
_NEEDED = (
    "dist/ort.wasm.bundle.min.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
    "package.json",
    "README.md",
)

_PAGE = Path(__file__).parent / "browser"


def write(folder: Path, model: bytes, metadata: Mapping[str, Any]) -> str | None:
    """Writes the page, model.onnx, model.json and vendor/ into the folder.

    Args:
        folder: for any static server.
        model: the ONNX model.
        metadata: as of --mode export, which the page reads.

    Returns:
        Why vendor/ could not be filled, and what to do; None if all is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in _PAGE.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / "model.onnx").write_bytes(model)
    (folder / "model.json").write_text(json.dumps(metadata) + "\n")
    return _fetch_runtime(folder / "vendor")


def _fetch_runtime(vendor: Path) -> str | None:
    if _installed_version(vendor) == _VERSION:
        return None
    package = f"{_RUNTIME}@{_VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        return (
            f"npm is not installed; install it and export again, or put "
            f"{' and '.join(Path(name).name for name in _NEEDED[:2])} of {package} into {vendor}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", package, "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return f"npm pack {package} took more than 600 s; export again with a network"
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip() or str(error)).splitlines()[-1]
            return f"npm pack {package} failed ({said}); export again with a network"
        (archive,) = Path(temporary).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != _SHA512:
            return f"npm pack {package} brought another file than is pinned (sha512 {found})"
        unpacked = Path(temporary) / "vendor"
        unpacked.mkdir()
        with tarfile.open(archive) as files:
            for name in _NEEDED:
                content = files.extractfile(f"package/{name}")
                assert content is not None  # The hash is that of an archive that has them.
                (unpacked / Path(name).name).write_bytes(content.read())
        if vendor.exists():
            shutil.rmtree(vendor)
        shutil.copytree(unpacked, vendor)
    return None


def _installed_version(vendor: Path) -> str | None:
    try:
        return json.loads((vendor / "package.json").read_text())["version"]
    except (OSError, ValueError, KeyError):
        return None
