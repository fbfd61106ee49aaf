"""The documentation: snippets run, commands can be given, names and links exist.

Python blocks of a page run in order beside a tiny work folder in runs/demo. Of commands, `cp` runs;
the others take minutes (tests/modes runs every mode): their modules, paths, flags and keys are
looked up. A block that is not checked has the reason before it: `<!-- not run: ... -->`.
"""

import ast
import contextlib
import pathlib
import pkgutil
import re
import shlex
import shutil
from unittest import mock

import pytest
from support.shared import filled_once

from flm_jax.config import schema
from flm_jax.config.weights import trained_config
from flm_jax.data import wflw
from flm_jax.models.heads import HEADS
from flm_jax.models.network import BACKBONES
from flm_jax.modes import export
from flm_jax.training.losses import LOSSES

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md"))]
SNIPPETS = [page for page in PAGES if "```python" in page.read_text()]
BLOCK = re.compile(r"(?:<!-- (not run: [^\n]+) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
SECTIONS = "data|model|loss|optimizer|schedule|log|checkpoint|evaluate|predict|benchmark"
KEY = re.compile(rf"({SECTIONS})(\.[a-z_0-9]+)+(?<!\.json)(?<!safetensors)(=\S+)?")
PROGRAMS = {"apt", "cp", "mypy", "pip", "python", "python3", "ruff", "source"}
PLACEHOLDER = re.compile(r"([A-Z][A-Z0-9_:]*)?")  # FACES98, HOST:PORT
MAIN = (ROOT / "flm_jax/__main__.py").read_text()
LAUNCH = {getattr(n, "value", None) for n in ast.walk(ast.parse((ROOT / "launch.py").read_text()))}


@pytest.fixture(scope="session")
def folder(trained, faces_root, tmp_path_factory):
    """face.jpg, and runs/demo with a tiny network that is trained, evaluated and exported."""

    def fill(folder):
        workdir = folder / "runs" / "demo"
        shutil.copytree(trained, workdir)
        shutil.copytree(faces_root, workdir / "faces")
        records = wflw.read_list(faces_root, wflw.TEST_LIST)
        plain = [record for record in records if not record.attributes.any()]
        largest = max(plain, key=lambda record: record.box[2] - record.box[0])
        shutil.copy(largest.image_path, folder / "face.jpg")
        with mock.patch("shutil.which", return_value=None):  # no npm, no download
            export.run(trained_config(workdir, {}), workdir)

    return filled_once(tmp_path_factory, "docs", fill)


def blocks(page):
    """(language, text, line before it) of the fenced blocks, without those with a reason."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    assert 2 * len(found) == len(re.findall("^ *```", text, re.M)), "a block without a language"
    return [(m[2], m[3], text[: m.start(3)].count("\n")) for m in found if not m[1]]


def spans(page):
    """The inline code of a page."""
    found = re.findall(r"`([^`]+)`", BLOCK.sub("", page.read_text()))
    return [" ".join(span.split()) for span in found]


def commands(text):
    """The words of each command, without the environment variables before it."""
    for command in re.split("\n| && ", text.replace("\\\n", " ")):
        if words := shlex.split(re.sub(r"^(\w+=\S+ +)+", "", command), comments=True):
            yield words


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.name)
def test_snippets_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {"__name__": page.stem}
    with mock.patch.dict(LOSSES), mock.patch.dict(HEADS), mock.patch.dict(BACKBONES):
        for language, text, line in blocks(page):
            if language == "python":
                exec(compile("\n" * line + text, page, "exec"), namespace)
            for words in commands(text) if language == "bash" else ():
                if words[0] == "cp":
                    shutil.copy(*words[1:])
    assert len(namespace.get("landmarks", [0])), "the detector finds no face in face.jpg"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_given(page):
    texts = [text for language, text, _ in blocks(page) if language == "bash"]
    inline = [span for span in spans(page) if not re.search("X.py|key=", span)]
    texts += [span for span in inline if re.match(r"launch\.py |python |PYTHONPATH=", span)]
    flags = [span for span in inline if span[:2] == "--"]
    own = {span for span in flags if f'"{span.split()[0]}"' in MAIN}
    texts += [f"launch.py --config=configs/demo.py {span}" for span in flags if span not in own]
    for words in commands("\n".join(texts)):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_links_exist(page):
    assert page.name != "README.md" or len(page.read_text().splitlines()) <= 200
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path if path else page).read_bytes().decode(errors="replace")
        titles = re.findall(r"^#+ (.+)$", linked.lower(), re.M)
        slugs = {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, target
    for span in spans(page) if page.name != "CHANGELOG.md" else ():  # It names what is gone.
        if re.match("(flm_jax|tests|configs|docs)/", span):
            assert (ROOT / span.partition(":")[0]).exists(), span
        elif re.fullmatch(r"flm_jax\.[\w.]+(\(\))?", span):
            pkgutil.resolve_name(span.removesuffix("()"))
        elif re.fullmatch(r"test_\w+", span):
            assert any(f"def {span}(" in p.read_text() for p in ROOT.glob("tests/**/*.py")), span
        elif KEY.fullmatch(span):
            check_launch(["--config=configs/wflw_resnet50_strong.py", f"--config.{span}"])


def check(words):
    """Looks up a command's program, module, extras, paths and flags."""
    if "launch.py" in words[:2]:
        return check_launch(words[words.index("launch.py") + 1 :])
    assert pathlib.Path(words[0]).name in PROGRAMS, words
    for word in words[1:]:
        assert not re.match("(flm_jax|tests|configs)/", word) or (ROOT / word).exists(), word
        extras = re.fullmatch(r"\.\[(\w+)\]", word)
        assert not extras or f"\n{extras[1]} = [" in (ROOT / "pyproject.toml").read_text(), word
    if words[1:2] == ["-m"] and words[2].startswith("flm_jax"):
        name = words[2] if "." in words[2] else f"{words[2]}.__main__"
        source = pathlib.Path(pkgutil.resolve_name(name).__file__).read_text()
        names = ["__main__", *(word for word in words if word.startswith("--"))]
        assert all(f'"{name}"' in source for name in names), words


def check_launch(arguments):
    """Looks up flags in launch.py and keys in the config, and checks the values."""
    (_, recipe), *given = re.findall(r"--([\w.]+)(?:[= ](?!--)(\S+))?", " ".join(arguments))
    module, _, rung = pathlib.PurePath(recipe).name.partition(":")
    recipe = pkgutil.resolve_name(f"configs.{module.removesuffix('.py')}")
    config = recipe.get_config(*([] if PLACEHOLDER.fullmatch(rung) else [rung]))
    for name, value in given:
        key = name.removeprefix("config.")
        if key == name:
            assert name in LAUNCH
            if name == "mode" and value:
                assert (ROOT / f"flm_jax/modes/{value}.py").is_file(), value
        elif PLACEHOLDER.fullmatch(value):
            config[key]
        else:
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
            config.update_from_flattened_dict({key: value})
    schema.check(config)
