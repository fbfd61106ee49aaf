"""Who may import whom, read from the source."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DEVICE = {"losses", "optimizer", "train_state", "train_step"}
SHELL = {
    "checkpoint",
    "checksums",
    "compilation_cache",
    "experiment",
    "measure_detector",
    "metrics_writer",
    "orbax_messages",
    "predictor",
    "processes",
    "settings",
    "signals",
    "step_log",
    "stopwatch",
    "torch_process",
    "video",
    "work_folder",
}
# Neither reads nor computes.
SHARED = {"flm_jax.errors", "flm_jax.landmarks"}
CONFIG_READERS = {"experiment", "predictor", "settings"}


def imports(path):
    """Every module that a file imports, `from a import b` as a.b too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    """The layer of a module of the package, by its dotted name."""
    parts = name.split(".")[1:]
    if not parts or f"flm_jax.{parts[0]}" in SHARED:
        return "shared"
    if parts[0] == "modes" or parts[0] in SHELL:
        return "shell"
    return "device" if parts[0] == "models" or parts[0] in DEVICE else "host"


FILES = sorted(path for path in (ROOT / "flm_jax").rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers_are_kept(path):
    own = layer(name_of(path))
    for module in imports(path):
        top = module.split(".")[0]
        if own in ("host", "shared"):
            assert top not in ("jax", "flax", "optax", "orbax"), module
        if own == "device":
            assert top not in ("cv2", "grain", "orbax", "ml_collections"), module
        if top == "flm_jax":
            reached = layer(module)
            allowed = {"host": {"host", "shared"}, "device": {"device", "shared"}}
            assert reached in allowed.get(own, {"host", "device", "shell", "shared"}), module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_a_mode_but_train_its_evaluation(path):
    modes = {module for module in imports(path) if module.startswith("flm_jax.modes.")}
    assert modes <= ({"flm_jax.modes.evaluate"} if path.stem == "train" else set())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_configs_are_read_by_the_shell_alone(path):
    if any(module.startswith("ml_collections") for module in imports(path)):
        assert path.parent.name == "modes" or path.stem in CONFIG_READERS


def test_every_module_has_its_tests():
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    own = {path.stem for path in FILES if path.stem != "__init__"}
    # Each of these is a part of the other's subject.
    together = {
        "errors": "experiment",
        "features": "drawn_faces",
        "hair": "drawn_faces",
        "layers": "drawn_faces",
        "painter": "drawn_faces",
        "parameters": "drawn_faces",
        "picture": "drawn_faces",
        "render": "drawn_faces",
        "sampling": "drawn_faces",
        "scene": "drawn_faces",
        "surface": "drawn_faces",
        "landmark_regressor": "resnet",
        "train_state": "train_step",
        "predictor": "predict",
        "video": "predict",
        "partial_folder": "prepared",
        "prepared_face": "prepared",
        "prepare": "prepared",
        "bare_loop": "benchmark",
        "benchmark_figures": "benchmark",
        "benchmark_torch": "benchmark",
        "stopwatch": "benchmark",
        "torch_process": "benchmark",
    }
    assert {together.get(name, name) for name in own} <= tested
