"""The documentation: snippets run, commands can be given, names and links exist.

Python blocks of a page run in order beside a tiny work folder in runs/demo. Of commands, `cp` runs;
the others take minutes (tests/modes runs every mode): their modules, paths, flags and config keys
are looked up. A block that is not checked has the reason before it: `<!-- not run: ... -->`.
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
from flm_jax.models.heads import HEADS
from flm_jax.models.network import BACKBONES
from flm_jax.modes import export
from flm_jax.training.losses import LOSSES

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {path.name: path for path in (*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md")))}
BLOCK = re.compile(r"(?:<!-- (not run: .+) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
SECTIONS = "data|model|loss|optimizer|schedule|log|checkpoint|evaluate|predict|benchmark"
KEY = re.compile(rf"({SECTIONS})(\.[a-z_0-9]+)+(?<!\.json)(?<!safetensors)(=\S+)?")
PROGRAMS = {"apt", "cp", "mypy", "pip", "python", "python3", "ruff", "source"}
PLACEHOLDER = re.compile(r"[A-Z0-9_:]*")  # FACES98, HOST:PORT
TESTS = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
LAUNCH = {getattr(n, "value", None) for n in ast.walk(ast.parse((ROOT / "launch.py").read_text()))}


@pytest.fixture(scope="session")
def folder(trained, faces_root, tmp_path_factory):
    """face.jpg, and runs/demo with a tiny network that is trained, evaluated and exported."""

    def fill(folder):
        workdir = folder / "runs" / "demo"
        shutil.copytree(trained, workdir)
        shutil.copytree(faces_root, workdir / "faces")
        shutil.copy(next(workdir.glob("faces/WFLW_images/test*/*")), folder / "face.jpg")
        with mock.patch("flm_jax.export.page.fetch_runtime", return_value=None):
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


@pytest.mark.parametrize("name", [name for name in PAGES if "```python" in PAGES[name].read_text()])
def test_snippets_run(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {"__name__": name}
    with mock.patch.dict(LOSSES), mock.patch.dict(HEADS), mock.patch.dict(BACKBONES):
        for language, text, line in blocks(PAGES[name]):
            if language == "python":
                exec(compile("\n" * line + text, PAGES[name], "exec"), namespace)
            for words in commands(text) if language == "bash" else ():
                if words[0] == "cp":
                    shutil.copy(*words[1:])


@pytest.mark.parametrize("name", PAGES)
def test_commands_can_be_given(name):
    texts = [text for language, text, _ in blocks(PAGES[name]) if language == "bash"]
    inline = [span for span in spans(PAGES[name]) if "X.py" not in span and "key=" not in span]
    texts += [span for span in inline if re.match(r"launch\.py |python |PYTHONPATH=", span)]
    texts += [f"launch.py --config=configs/demo.py {span}" for span in inline if span[:2] == "--"]
    for words in (words for text in texts for words in commands(text)):
        check(words)


@pytest.mark.parametrize("name", PAGES)
def test_names_and_links_exist(name):
    page = PAGES[name]
    assert name != "README.md" or len(page.read_text().splitlines()) <= 200
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path if path else page).read_bytes().decode(errors="replace")
        titles = re.findall(r"^#+ (.+)$", linked.lower(), re.M)
        slugs = {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, target
    for span in spans(page) if name != "CHANGELOG.md" else ():  # It names what is gone.
        if re.match("(flm_jax|tests|configs|docs)/", span):
            assert (ROOT / span.partition(":")[0]).exists(), span
        elif re.fullmatch(r"flm_jax\.[\w.]+(\(\))?", span):
            pkgutil.resolve_name(span.removesuffix("()"))
        elif re.fullmatch(r"test_\w+", span):
            assert f"def {span}(" in TESTS, span
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
        source = pathlib.Path(pkgutil.resolve_name(words[2]).__file__).read_text()
        flags = [word for word in words if word.startswith("--")]
        assert all(f'"{name}"' in source for name in ("__main__", *flags)), words


def check_launch(arguments):
    """Looks up flags in launch.py and keys in the config, and checks the values."""
    (_, recipe), *given = re.findall(r"--([\w.]+)(?:[= ](?!--)(\S+))?", " ".join(arguments))
    module, _, rung = pathlib.PurePath(recipe).name.partition(":")
    get_config = pkgutil.resolve_name(f"configs.{module.removesuffix('.py')}:get_config")
    config = get_config(*([] if PLACEHOLDER.fullmatch(rung) else [rung]))
    for name, value in given:
        key = name.removeprefix("config.")
        if key == name:
            assert name in LAUNCH, name
            assert name != "mode" or not value or value in LAUNCH, value
        elif PLACEHOLDER.fullmatch(value):
            config[key]
        else:
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
            config.update_from_flattened_dict({key: value})
    schema.check(config)
