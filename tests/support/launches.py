"""Runs of launch.py in processes of their own, and what they leave in their work folders."""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import orbax.checkpoint as ocp
from tensorboardX.proto.event_pb2 import Event

from flm_jax.runtime.restore import SavedCheckpoints

ROOT = pathlib.Path(__file__).parent.parent.parent

# Four epochs of two steps on 44 drawn faces: `networks.tiny_config`.
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


@functools.cache
def _fork_server():
    """The socket of the process that forks for each launch."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "tests/support/fork_server.py", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # A fork would lose its threads.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    @atexit.register
    def end():
        ours.close()
        process.wait()

    return ours


class Fork:
    """A process forked for a launch, with what the tests use of `subprocess.Popen`."""

    def __init__(self, arguments, environment):
        self._output, output = os.pipe()
        self._numbers, numbers = os.pipe()
        request = json.dumps({"arguments": arguments, "environment": environment}).encode()
        socket.send_fds(_fork_server(), [request], [output, numbers])
        os.close(output)
        os.close(numbers)
        self.returncode = None
        self.pid = self._read_number()

    def poll(self):
        if self.returncode is None and select.select([self._numbers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=600):
        if self.returncode is None:
            assert select.select([self._numbers], [], [], timeout)[0], "it does not end"
            self.returncode = self._read_number()
            os.close(self._numbers)
        return self.returncode

    def communicate(self, timeout=600):
        """All that was printed, errors among it, once the process and its children have ended."""
        chunks, deadline = [b""], time.monotonic() + timeout
        while len(chunks) == 1 or chunks[-1]:
            left = max(0, deadline - time.monotonic())
            assert select.select([self._output], [], [], left)[0], b"".join(chunks).decode()
            chunks.append(os.read(self._output, 1 << 16))
        os.close(self._output)
        self.wait()
        return b"".join(chunks).decode().replace("\r\n", "\n").replace("\r", "\n"), None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def _read_number(self):
        return struct.unpack("i", os.read(self._numbers, 4))[0]


def start(*arguments, config="demo", devices=2, program="launch.py", environment=(), fork=True):
    """Starts a run on so many CPU devices; it uses the tests' compilation cache.

    It leads a session, so that a test can signal the whole group, as a terminal does.
    """
    flags = re.sub(r"(?<=_count=)\d+", str(devices), os.environ["XLA_FLAGS"])
    environment = {**os.environ, "XLA_FLAGS": flags, **dict(environment)}
    named = [f"--config=configs/{config}.py"] if config else []
    arguments = [str(program), *named, *arguments]
    if fork:
        return Fork(arguments, environment)
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, **settings):
    """The exit code and the output of a run."""
    process = start(*arguments, **settings)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def finish(process, code=0):
    """What a process has printed when it ends, with this exit code and without a traceback."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def launch(*arguments, code=0, **settings):
    """What a run prints that ends with this exit code, and without a traceback."""
    return finish(start(*arguments, **settings), code)


def run_recorded(workdir, *arguments, **settings):
    """Runs, and returns its output and a checksum of every batch that was trained on."""
    batches = workdir.parent / f"{workdir.name}_batches"
    batches.unlink(missing_ok=True)
    program = "tests/support/recorded_launch.py"
    output = launch(*arguments, program=program, environment={"BATCHES": str(batches)}, **settings)
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
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # That thread has ended.
            for child in path.read_text().split():
                found += [int(child), *children(child)]
    return found


def wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


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
