"""Writes a folder with the browser page in it, and onnxruntime-web, which runs its networks.

onnxruntime-web comes from npm in one pinned version; nothing of it is part of this project.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flm_jax.errors import InputError
from flm_jax.runtime.partial_folder import partial_folder

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


def write(folder: Path, files: Mapping[str, bytes], page: str) -> str | None:
    """Writes the files beside their places, then moves each into its place.

    Each file is replaced whole, and the descriptions last. A write that fails for want of space
    leaves the folder as it was.

    Args:
        folder: where to; other files there stay.
        files: their contents by name, those of the page among them.
        page: the page's folder in it, which gets onnxruntime-web.

    Returns:
        Why the page lacks onnxruntime-web, and what to do; None if it has it.

    Raises:
        InputError: the folder can't be written.
    """
    vendor = Path(page, "vendor")
    problem = None
    try:
        # Within it: it may be a link, or a mount point, to which nothing can be moved from outside.
        with partial_folder(folder / "files") as partial:
            for name, content in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            if not _has_runtime(folder / vendor):
                problem = _fetch_runtime(partial / vendor)
            for path in sorted(partial.rglob("*"), key=lambda path: path.suffix == ".json"):
                if path.is_file():
                    target = folder / path.relative_to(partial)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror or error}") from error
    return problem and f"{folder / vendor}: {problem}"


def _has_runtime(vendor: Path) -> bool:
    """Whether the folder holds onnxruntime-web, whole and of the pinned version."""
    paths = {vendor / Path(name).name: digest for name, digest in _RUNTIME.items()}
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
        for path, digest in paths.items()
    )


def _fetch_runtime(vendor: Path) -> str | None:
    """Makes the folder with onnxruntime-web in it; or returns why it can't, and what to do."""
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
    if not _has_runtime(vendor):
        shutil.rmtree(vendor)
        return f"npm pack {_PACKAGE} brought other files than the pinned ones"
    return None
