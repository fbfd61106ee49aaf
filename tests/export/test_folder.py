import hashlib
import json
import os
import sys

import numpy as np
import pytest

from flm_jax.data.crop import BOXES
from flm_jax.errors import InputError
from flm_jax.export import folder
from flm_jax.export.page import page_files
from flm_jax.inference import detector

WASM = "browser/vendor/ort-wasm-simd-threaded.wasm"


@pytest.fixture(autouse=True)
def _no_npm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def write(tmp_path, model=b"a network"):
    page = page_files(model, {"input": {}, "crop": {"box": "rectangle"}})
    files = {f"browser/{name}": content for name, content in page.items()}
    return folder.write(tmp_path / "export", {"landmarks.onnx": model, **files}, "browser")


def make_npm(where, script):
    path = where / "npm"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm whose package holds the pinned files, each with its own name in it."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in folder._RUNTIME}
    monkeypatch.setattr(folder, "_RUNTIME", digests)
    make_npm(
        tmp_path,
        f"""
import io, pathlib, sys, tarfile
with tarfile.open(pathlib.Path(sys.argv[-1], "x.tgz"), "w:gz") as archive:
    for name in {list(digests)}:
        member = tarfile.TarInfo("package/" + name)
        member.size = len(name)
        archive.addfile(member, io.BytesIO(name.encode()))
""",
    )


def test_a_page_without_its_runtime_is_written_and_said(tmp_path):
    assert "npm is not installed; install it and export again" in write(tmp_path)
    browser = tmp_path / "export/browser"
    names = {path.name for path in browser.iterdir()}
    assert names > {"index.html", "page.js", "worker.js", "crop.js", "style.css", "icon.svg"}
    assert (browser / "model.onnx").read_bytes() == b"a network"
    description = json.loads((browser / "model.json").read_text())
    assert description["input"] == {}
    assert description["detector"]["sides"] == [640, 320]


def test_half_a_runtime_is_fetched_anew_and_a_whole_one_kept(npm, tmp_path):
    assert write(tmp_path) is None
    wasm = tmp_path / "export" / WASM
    whole = wasm.read_bytes()
    wasm.write_bytes(whole[:5])
    assert write(tmp_path) is None
    assert wasm.read_bytes() == whole
    (tmp_path / "npm").unlink()
    assert write(tmp_path) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('ENOTFOUND the registry')", "failed (ENOTFOUND the registry); exp"),
        ("import pathlib, sys; pathlib.Path(sys.argv[-1], 'x.tgz').write_text('x')", "the pinned"),
    ],
    ids=["failed", "another archive"],
)
def test_nothing_but_the_pinned_runtime_is_taken(tmp_path, script, message):
    make_npm(tmp_path, script)
    assert message in write(tmp_path)
    assert not (tmp_path / "export/browser/vendor").exists()


@pytest.mark.parametrize(
    ("failure", "seen", "message"),
    [
        (OSError(28, "No space left on device"), InputError, "can't be written: No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["full disk", "interrupted"],
)
def test_a_failed_write_leaves_the_folder_as_it_was(
    tmp_path, monkeypatch, npm, failure, seen, message
):
    def contents():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fetch(vendor):
        vendor.mkdir()
        (vendor / "half.wasm").write_bytes(b"half")
        raise failure

    write(tmp_path)
    (tmp_path / "export" / WASM).unlink()
    before = contents()
    monkeypatch.setattr(folder, "_fetch_runtime", fetch)
    with pytest.raises(seen, match=message):
        write(tmp_path, b"a better network")
    assert contents() == before


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export/notes.txt").write_text("mine")
    write(tmp_path)
    assert (tmp_path / "export/notes.txt").read_text() == "mine"


def test_descriptions_come_last(tmp_path, monkeypatch):
    """Whoever reads one finds what it describes."""
    moved, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda old, new: (moved.append(new.suffix), replace(old, new))
    )
    write(tmp_path)
    assert moved.index(".json") == len(moved) - 1


@pytest.mark.parametrize("box", BOXES)
def test_the_page_frames_faces_as_those_of_the_training(box):
    description = json.loads(page_files(b"", {"crop": {"box": box}})["model.json"])
    np.testing.assert_allclose(
        description["detector"]["margins"], detector.margins_to(box), atol=1e-4
    )
