"""Runs of launch.py in processes of their own, and what they leave in their work folders."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import orbax.checkpoint as ocp
from tensorboardX.proto.event_pb2 import Event

from flm_jax.runtime.restore import SavedCheckpoints

ROOT = pathlib.Path(__file__).parent.parent.parent

# Four epochs of two steps on 44 drawn faces; on a warm compilation cache, most of it is the start.
TINY = (
    "--config.batch_size=16",
    "--config.num_epochs=4",
    "--config.data.drawn.train=0",
    "--config.data.image_size=32",
    "--config.data.num_threads=1",
    "--config.model.backbone.stage_sizes=(1,)",
    "--config.model.backbone.width=4",
    "--config.log.every_steps=1",
)
EVERY_STEP = (
    "--config.checkpoint.every_steps=1",
    "--config.checkpoint.keep_last=100",
    "--config.ema_decay=0.9",
    "--config.optimizer.grad_accum_steps=2",  # So that step 3 is the middle of an update.
    "--config.optimizer.clip_norm=1.0",
    "--config.data.augmentation.rotation.probability=0.5",
    "--config.data.augmentation.paste.probability=0.5",
)
# For a process that is killed: it reads the tests' compiled programs, and leaves none half-written.
READ_ONLY_CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000"}


def start(*arguments, config="demo", devices=1, program="launch.py", environment=()):
    """Starts a run on so many CPU devices; it uses the tests' compilation cache."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    name, colon, rung = config.partition(":")
    return subprocess.Popen(
        [sys.executable, program, f"--config=configs/{name}.py{colon}{rung}", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **dict(environment)},
        start_new_session=True,  # so that a test can signal the whole group, as a terminal does
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, **settings):
    """The exit code and the output of a run."""
    process = start(*arguments, **settings)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def run_recorded(workdir, *arguments, **settings):
    """Runs, and returns its output and a checksum of every batch that was trained on."""
    batches = workdir.parent / f"{workdir.name}_batches"
    batches.unlink(missing_ok=True)
    program = "tests/support/recorded_launch.py"
    code, output = run(*arguments, program=program, environment={"BATCHES": batches}, **settings)
    assert code == 0, output
    return output, batches.read_text().splitlines()


def tiny(faces_root, workdir, *arguments):
    """The arguments of a tiny run."""
    return (
        *(f"--workdir={workdir}", f"--config.data.root={faces_root}", *TINY),
        "--config.compilation_cache=off",  # JAX keeps the tests' own, as conftest.py says.
        *arguments,
    )


def wait_for(process, condition):
    """Waits until the condition holds, while the process runs."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(pid):
    """The processes that Python has started below this one, at any depth."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *children(child)]
    return found


def count_lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def read_log(workdir):
    """The rows of metrics.jsonl without what is measured anew in every run."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured = ("images_per_second", "time")
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def read_events(workdir):
    """(step, name, value, time) of every scalar in TensorBoard's files."""
    scalars = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            scalars += [
                (event.step, value.tag, value.simple_value, event.wall_time)
                for value in event.summary.value
            ]
    return scalars


def steps_in(workdir):
    """The steps of the checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def read_state(workdir):
    """The last checkpoint's step and arrays."""
    step = steps_in(workdir)[-1]
    handler = ocp.StandardCheckpointer()
    return step, handler.restore(workdir / "checkpoints" / str(step) / "state")


def read_checkpoint(workdir):
    """The last one's step, arrays (by types, shapes and checksums), progress, and the best one.

    That the checksums are those of the values is shown in test_checkpoint.py.
    """
    checkpoints = SavedCheckpoints(workdir)
    last, best = checkpoints.find("last"), checkpoints.find("best")
    described = checkpoints._read(last)
    found = last, described["checksums"]["arrays"], described["progress"], best
    found += (checkpoints._loss(best),)
    checkpoints.close()
    return found


def copy_until(step, source, workdir):
    """A copy of a work folder without the checkpoints after `step`."""
    shutil.copytree(source, workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
