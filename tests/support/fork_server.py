"""Forks itself for every launch: it has imported what launch.py does, which takes five seconds.

    python tests/support/fork_server.py SOCKET

SOCKET is a file descriptor. A request is JSON with the arguments, the program first, and the
environment; and two files, for the output, and for two numbers: the child's process id and, when it
has ended, its exit code. At the end of the requests this ends, and its children with it.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading

MODES = ("benchmark", "evaluate", "predict", "prepare", "preview", "train")


def serve(requests):
    """Forks for every request; returns in the child, with the request and the file for output."""
    running = {}  # The child's pidfd -> its process id, and the file for numbers.
    while True:
        for ready in select.select([requests, *running], [], [])[0]:
            if ready is not requests:
                pid, numbers = running.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # Nobody waits for it.
                    os.write(numbers, struct.pack("i", code))
                os.close(numbers)
                os.close(ready)
                continue
            content, files, *_ = socket.recv_fds(requests, 1 << 20, 2)
            if not content:
                for pid, _ in running.values():
                    os.killpg(pid, signal.SIGKILL)
                sys.exit()
            output, numbers = files
            if not (pid := os.fork()):
                requests.close()
                for file in (numbers, *running, *(file for _, file in running.values())):
                    os.close(file)
                return json.loads(content), output
            os.write(numbers, struct.pack("i", pid))
            running[os.pidfd_open(pid)] = pid, numbers
            os.close(output)


def become(request, output):
    """Makes this process what a new Python would be with this request."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, value in request["environment"].items():
        key = name.lower()
        # JAX has read its variables when it was imported.
        if value != os.environ.get(name) and key in jax.config.values:
            jax.config.update(key, type(jax.config.values[key])(value))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    for mode in MODES:
        importlib.import_module(f"flm_jax.modes.{mode}")
    import grain  # noqa: F401  The loader imports it when it starts.
    import jax
    from jax._src import xla_bridge

    from flm_jax.evaluation import plots

    # Plots are drawn in the tests' own processes, and take three seconds of every run.
    for name in ("draw_faces", "draw_loss_curve", "draw_error_curves"):
        setattr(plots, name, lambda path, *_, **__: path.touch())
    # Of these a fork has no copy.
    assert threading.enumerate() == [threading.main_thread()]
    assert len(os.listdir("/proc/self/task")) == 1
    assert not xla_bridge.backends_are_initialized()
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_path(sys.argv[0], run_name="__main__")
