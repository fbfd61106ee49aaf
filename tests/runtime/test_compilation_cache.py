"""In processes of their own: JAX looks for the cache once, at the first compilation."""

import jax
from support.launches import launch

from flm_jax.runtime import compilation_cache

PROGRAM = """
import os, pathlib, warnings
import jax
from flm_jax.runtime import compilation_cache

warnings.simplefilter("error")
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compilation_cache.enable(pathlib.Path(os.environ["FOLDER"]))
jax.jit(lambda x: x * 2 + 1)(jax.numpy.arange(3.0))
print(sum(name.endswith("cache_hits") for name in hits), "read")
"""


def test_every_program_is_kept_and_a_damaged_entry_is_compiled_again_once(tmp_path):
    program, folder = tmp_path / "program.py", tmp_path / "cache"
    program.write_text(PROGRAM)

    def run():
        return launch(program=program, environment={"FOLDER": str(folder)})

    assert run() == "0 read\n"
    entries = list(folder.glob("*-cache"))
    assert run() == f"{len(entries)} read\n"
    for path in entries:
        path.write_bytes(path.read_bytes()[:-1])
    assert run() == "0 read\n"
    assert run() == f"{len(entries)} read\n"
    for path in entries:
        content = path.read_bytes()
        assert compilation_cache._is_whole(content)
        for share in (0, 0.5, 0.99):
            assert not compilation_cache._is_whole(content[: int(share * len(content))])
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        assert not compilation_cache._is_whole(flipped)


def test_files_of_the_users_own_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    entry = f"jit_f-{64 * '0'}-cache"
    own = {"my-cache", f"{entry}.txt", f"{64 * '0'}-cache", f"jit_f-{63 * '0'}-cache"}
    for name in (entry, *own):
        (tmp_path / name).write_text("no program")
    compilation_cache.enable(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == own
