"""In processes of their own: JAX looks for the cache once, at the first compilation."""

import os
import subprocess
import sys

from support.launches import ROOT

from flm_jax.runtime import compilation_cache

PROGRAM = """
import pathlib, sys, warnings
import jax
from flm_jax.runtime import compilation_cache

warnings.simplefilter("error")
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compilation_cache.enable(pathlib.Path(sys.argv[1]))
print(jax.jit(lambda x: x * 2 + 1)(jax.numpy.arange(3.0)))
print(sum(name.endswith("cache_hits") for name in hits), "read")
"""


def run(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return int(process.stdout.splitlines()[-1].split()[0]), process.stderr


def test_every_program_is_kept_and_a_damaged_entry_is_compiled_again_once(tmp_path):
    assert run(tmp_path)[0] == 0
    entries = [path for path in tmp_path.glob("*-cache")]
    assert run(tmp_path) == (len(entries), "")
    for path in entries:
        path.write_bytes(path.read_bytes()[:-1])
    assert run(tmp_path) == (0, "")
    assert run(tmp_path) == (len(entries), "")
    for path in entries:
        content = path.read_bytes()
        assert compilation_cache._is_whole(content)
        for share in (0, 0.5, 0.99):
            assert not compilation_cache._is_whole(content[: int(share * len(content))])
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        assert not compilation_cache._is_whole(flipped)
