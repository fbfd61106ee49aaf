"""In processes of their own: JAX looks for the cache once, at the first compilation."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

PROGRAM = """
import pathlib, sys, warnings
import jax
from flm_jax import compilation_cache

warnings.simplefilter("error")
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compilation_cache.enable(pathlib.Path(sys.argv[1]))
print(jax.jit(lambda x: x * 2 + 1)(jax.numpy.arange(3.0)))
print(sum(name.endswith("cache_hits") for name in hits), "read")
"""


def run(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return int(process.stdout.splitlines()[-1].split()[0]), process.stderr


@pytest.fixture
def filled(tmp_path):
    assert run(tmp_path)[0] == 0
    entries = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert entries
    return tmp_path, entries


def test_every_program_is_kept_and_read_by_the_next_process(filled):
    folder, entries = filled
    assert run(folder) == (len(entries), "")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_half_written_entry_is_compiled_again_once(filled, share):
    folder, entries = filled
    for path, content in entries.items():
        path.write_bytes(content[: int(share * len(content))])
    assert run(folder) == (0, "")
    assert run(folder) == (len(entries), "")


def test_a_flipped_byte_is_noticed(filled):
    folder, entries = filled
    for path, content in entries.items():
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert run(folder) == (0, "")
    assert run(folder) == (len(entries), "")
