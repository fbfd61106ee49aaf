"""Who may import whom, read from the source, folder by folder."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "flm_jax"

# What each folder may import of the package, beside itself: never one to its right
# (docs/architecture.md). Leaves are the modules of the package's own folder.
LEAVES = {"errors", "geometry", "landmarks"}
ORDER = [
    LEAVES,
    {"runtime"},
    {"data", "models"},
    {"drawing", "training"},
    {"config"},
    {"inference"},
    {"evaluation", "export", "benchmark"},
    {"modes", "__main__"},
]
HOST = LEAVES | {"data", "drawing", "inference"}  # NumPy and OpenCV
DEVICE = {"models", "training"}  # pure functions of arrays
CONFIG_READERS = {"config", "modes"}


def imported(path):
    """Every module that a file imports, `from a import b` as a.b too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    """The folder, or the leaf, of a dotted name."""
    return module.split(".")[1]


FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


@pytest.mark.parametrize("name", FILES)
def test_no_folder_imports_one_to_its_right(name):
    place = {folder: index for index, folders in enumerate(ORDER) for folder in folders}
    for module in imported(FILES[name]):
        if module.startswith("flm_jax."):
            own, other = place[room(name)], place[room(module)]
            assert other < own or room(module) == room(name) or other == own == 0, module


@pytest.mark.parametrize("name", FILES)
def test_each_folder_keeps_to_its_libraries(name):
    for module in imported(FILES[name]):
        library = module.split(".")[0]
        if room(name) in HOST:
            assert library not in ("jax", "flax", "optax", "orbax"), module
        if room(name) in DEVICE:
            assert library not in ("cv2", "grain", "orbax"), module
        if library == "ml_collections":
            assert room(name) in CONFIG_READERS


def test_every_folder_has_its_tests():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set().union(*ORDER) - LEAVES - {"__main__"}
    for folder in folders:
        assert list((ROOT / "tests" / folder).glob("test_*.py")), folder
