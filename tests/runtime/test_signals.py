"""SIGINT and SIGTERM, at every moment, to the process alone and to its group."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from support.launches import (
    READ_ONLY_CACHE,
    ROOT,
    TINY,
    children,
    count_lines,
    read_log,
    read_state,
    run,
    start,
    steps_in,
    tiny,
    wait_for,
)

from flm_jax.data.workers import start_worker

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_signalled(moment, number, *arguments):
    environment = {"MOMENT": moment, "NUMBER": str(int(number))}
    code, output = run(
        *arguments, program="tests/support/signalled_launch.py", environment=environment
    )
    assert code == 128 + number, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize(
    ("moment", "number"),
    [("reading the lists", signal.SIGINT), ("creating the state", signal.SIGTERM)],
)
def test_before_the_first_step_there_is_nothing_to_save(faces_root, tmp_path, moment, number):
    output = run_signalled(moment, number, *tiny(faces_root, tmp_path))
    assert "nothing to save" in output
    assert signal.Signals(number).name in output
    assert not any((tmp_path / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("moment", "step", "number"),
    [
        ("a step", 4, signal.SIGINT),
        ("a step", 4, signal.SIGTERM),
        ("validating", 2, signal.SIGINT),
        ("saving", 2, signal.SIGTERM),
        ("evaluating", 8, signal.SIGINT),
    ],
)
def test_no_finished_step_is_lost(trained, faces_root, tmp_path, moment, step, number):
    output = run_signalled(moment, number, *tiny(faces_root, tmp_path))
    if moment == "evaluating":
        assert "there is nothing to save" in output
    else:
        name = signal.Signals(number).name
        assert f"stopped by {name} after step {step}, which is saved" in output
    if moment == "validating":
        assert "validation loss" not in output  # It was not waited for.
    assert steps_in(tmp_path)[-1] == step
    code, output = run(*tiny(faces_root, tmp_path))
    assert code == 0, output
    is_done = moment == "evaluating"
    assert ("all of them are done" if is_done else f"continuing after step {step}") in output
    assert read_log(tmp_path) == read_log(trained)
    results = [(folder / "evaluation.json").read_text() for folder in (tmp_path, trained)]
    assert results[0] == results[1]


def catches_signals(pid):
    """Whether the process handles SIGTERM itself."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt"))[7:], 16)
    return caught >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_start_that_is_stopped_says_so(faces_root, tmp_path, number):
    process = start(*tiny(faces_root, tmp_path))
    wait_for(process, lambda: catches_signals(process.pid))
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert "there is nothing to save" in output
    assert "Traceback" not in output


def compiling(faces_root, tmp_path):
    """A run with a cold cache and a network whose compilation takes long enough to be met."""
    more = (f"--config.compilation_cache={tmp_path}/cache",)
    return tiny(faces_root, tmp_path, *more, "--config.model.backbone.stage_sizes=(3,4,6,3)")


def test_a_signal_while_the_first_step_compiles_is_heard(faces_root, tmp_path):
    process = start(*compiling(faces_root, tmp_path))
    wait_for(process, (tmp_path / "metrics.jsonl").exists)
    time.sleep(1)
    assert count_lines(tmp_path / "metrics.jsonl") == 0
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert steps_in(tmp_path)[-1] == 1
    assert "after step 1, which is saved" in output
    assert "Traceback" not in output


def test_a_second_signal_quits_at_once(faces_root, tmp_path):
    """Even while XLA compiles, when Python itself hears nothing."""
    process = start(*compiling(faces_root, tmp_path))
    wait_for(process, (tmp_path / "metrics.jsonl").exists)
    time.sleep(1)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "which is saved" not in output
    assert not any((tmp_path / "checkpoints").glob("*"))


def test_a_signal_that_comes_twice_at_once_is_one(faces_root, tmp_path):
    """`timeout` sends it to the process and to the group that it is in."""
    process = start(*tiny(faces_root, tmp_path))
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "which is saved" in output


def kill_with_workers(process):
    """Kills a process that has workers, which have to end by themselves."""
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.communicate(timeout=120)
    wait_until_gone(workers)


def wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def test_workers_leave_stopping_to_their_parent_and_end_with_it(faces_root, tmp_path):
    log = tmp_path / "metrics.jsonl"
    more = ("--config.data.num_workers=2", "--config.num_epochs=500")
    process = start(*tiny(faces_root, tmp_path, *more))
    wait_for(process, lambda: len(children(process.pid)) >= 3)  # And Python's resource tracker.
    workers = children(process.pid)
    time.sleep(0.5)
    for _ in range(2):  # While they start, and when they read.
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        lines = count_lines(log)
        wait_for(process, lambda lines=lines: count_lines(log) >= lines + 30)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert read_state(tmp_path)[0] >= 1
    wait_until_gone(workers)


def test_a_worker_ignores_signals_by_itself():
    """Those that draw are started without a mask."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, start_worker) as pool:
        for number in SIGNALS:
            assert pool.submit(signal.getsignal, number).result() == signal.SIG_IGN


def test_workers_end_with_a_killed_parent(faces_root, tmp_path):
    # Workers end by themselves once they have read a short run.
    more = ("--config.data.num_workers=2", "--config.num_epochs=500")
    arguments = tiny(faces_root, tmp_path, *more)
    process = start(*arguments, environment=READ_ONLY_CACHE)
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    kill_with_workers(process)


def test_killed_drawing_leaves_no_worker(tmp_path):
    settings = ("--train=2000", "--test=1", "--workers=2")
    program = [sys.executable, "-m", "flm_jax.drawing.dataset", f"{tmp_path}/faces", *settings]
    process = subprocess.Popen(program, cwd=ROOT)
    wait_for(process, lambda: list(tmp_path.glob(".faces.*.partial/WFLW_images/train--Drawn/*")))
    kill_with_workers(process)


def test_the_demo_stopped_while_it_draws_says_so(tmp_path):
    process = start(f"--workdir={tmp_path}", *TINY[:2], "--config.data.image_size=32")
    wait_for(process, lambda: list(tmp_path.glob(".faces.*.partial/WFLW_images/train--Drawn/*")))
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "there is nothing to save" in output
    assert "Traceback" not in output
