"""Standard output and error whose reader has gone away. In processes without JAX."""

import signal
import subprocess
import sys

import pytest
from support.launches import ROOT

PROGRAM = """
import os, sys, time
from flm_jax.runtime.log import outlive_log
from flm_jax.runtime.signals import collect_signals, exit_on_signals

outlive_log()
with {handler} as received:
    sys.stdin.readline()
    for _ in range(3):
        for stream in (sys.stdout, sys.stderr):
            print(10_000 * "x", file=stream, flush=True)
    open(sys.argv[1], "w").close()
    while not received:
        time.sleep(0.01)
    print("saved")
sys.exit(128 + received[0])
"""


def start(handler, done, **streams):
    program = [sys.executable, "-c", PROGRAM.format(handler=handler), done]
    return subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, text=True, **streams)


def signalled(process, done):
    process.stdin.close()
    while not done.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    return process.wait(60)


@pytest.mark.parametrize("handler", ["collect_signals()", "exit_on_signals('no')"])
def test_a_reader_that_goes_away_ends_no_run_and_hides_no_signal(tmp_path, handler):
    process = start(handler, tmp_path / "done", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    assert signalled(process, tmp_path / "done") == 128 + signal.SIGINT


def test_a_full_disk_below_the_log_ends_no_run(tmp_path):
    with open("/dev/full", "w") as full:
        process = start("collect_signals()", tmp_path / "done", stdout=full, stderr=full)
        assert signalled(process, tmp_path / "done") == 128 + signal.SIGINT


def test_what_can_be_written_is():
    program = (
        "from flm_jax.runtime.log import outlive_log; outlive_log(); import sys;"
        "print('é', end=''); print('b', file=sys.stderr); print('\\udcff')"
    )
    environment = {"PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"b\n")
    assert done.stdout.decode() == "é\\udcff\n"
