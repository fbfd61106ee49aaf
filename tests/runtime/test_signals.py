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
    ROOT,
    TINY,
    children,
    count_lines,
    finish,
    launch,
    read_log,
    read_state,
    start,
    steps_in,
    tiny,
    wait_for,
    wait_until_gone,
)

from flm_jax.data.workers import start_worker
from flm_jax.runtime.signals import collect_signals


def launch_signalled(moment, number, *arguments):
    environment = {"MOMENT": moment, "NUMBER": str(int(number))}
    program = "tests/support/signalled_launch.py"
    return launch(*arguments, program=program, environment=environment, code=128 + number)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_a_warning_of_slurm_stop_too(number):
    with collect_signals() as received:
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 60
        while not received:
            assert time.monotonic() < deadline
    assert received == [number]


def test_what_nohup_starts_survives_the_end_of_its_session():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with collect_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize(
    ("moment", "number"),
    [("reading the lists", signal.SIGINT), ("creating the state", signal.SIGTERM)],
)
def test_before_the_first_step_there_is_nothing_to_save(faces_root, tmp_path, moment, number):
    output = launch_signalled(moment, number, *tiny(faces_root, tmp_path))
    assert "nothing to save" in output
    assert number.name in output
    assert not any((tmp_path / "checkpoints").glob("*"))


def test_no_finished_step_is_lost_however_often_a_run_is_stopped(trained, faces_root, tmp_path):
    arguments, reached = tiny(faces_root, tmp_path), 0
    for moment, step, number in (
        ("a step", 3, signal.SIGINT),
        ("validating", 4, signal.SIGTERM),
        ("saving", 6, signal.SIGTERM),
        ("evaluating", 8, signal.SIGINT),
    ):
        output = launch_signalled(moment, number, *arguments)
        assert not reached or f"continuing after step {reached}" in output
        if moment == "evaluating":
            assert "there is nothing to save" in output
        else:
            said = f"stopped by {number.name} after step {step}, which is saved"
            assert said in output
        if moment == "validating":
            assert "validation loss" not in output  # It was not waited for.
        assert steps_in(tmp_path)[-1] == step
        reached = step
    assert "all of them are done" in launch(*arguments)
    assert read_log(tmp_path) == read_log(trained)
    results = [(folder / "evaluation.json").read_text() for folder in (tmp_path, trained)]
    assert results[0] == results[1]


def catches_signals(pid):
    """Whether the process handles SIGTERM itself."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt"))[7:], 16)
    return caught >> (signal.SIGTERM - 1) & 1


def test_a_start_that_is_stopped_while_it_imports_says_so(faces_root, tmp_path):
    process = start(*tiny(faces_root, tmp_path), fork=False)
    wait_for(process, lambda: catches_signals(process.pid))
    process.send_signal(signal.SIGINT)
    assert "there is nothing to save" in finish(process, 128 + signal.SIGINT)


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_while_the_first_step_compiles_is_heard_and_a_second_one_quits_at_once(
    faces_root, tmp_path, count
):
    """Even while XLA compiles, when Python itself hears nothing."""
    cold = f"--config.compilation_cache={tmp_path}/cache"  # It takes long enough to be met.
    process = start(*tiny(faces_root, tmp_path, cold))
    wait_for(process, (tmp_path / "metrics.jsonl").exists)
    time.sleep(0.3)
    assert count_lines(tmp_path / "metrics.jsonl") == 0
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    output = finish(process, 128 + signal.SIGTERM)
    assert ("after step 1, which is saved" in output) == (count == 1)
    assert steps_in(tmp_path) == [1] * (count == 1)


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
        wait_for(process, lambda lines=lines: count_lines(log) >= lines + 10)
    # As `timeout` does, whose signal is one though it comes twice.
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert "which is saved" in finish(process, 128 + signal.SIGINT)
    assert read_state(tmp_path)[0] >= 1
    wait_until_gone(workers)


def test_a_worker_ignores_signals_by_itself():
    """Those that draw are started without a mask."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, start_worker) as pool:
        for number in (signal.SIGINT, signal.SIGTERM):
            assert pool.submit(signal.getsignal, number).result() == signal.SIG_IGN


def test_killed_drawing_leaves_no_worker(tmp_path):
    settings = ("--train=2000", "--test=1", "--workers=2")
    program = [sys.executable, "-m", "flm_jax.drawing.dataset", f"{tmp_path}/faces", *settings]
    process = subprocess.Popen(program, cwd=ROOT)
    wait_for(process, lambda: list(tmp_path.glob(".faces.*.partial/WFLW_images/train--Drawn/*")))
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait(timeout=120)
    wait_until_gone(workers)


def test_the_demo_stopped_while_it_draws_says_so(tmp_path):
    process = start(f"--workdir={tmp_path}", *TINY[:2], "--config.data.image_size=32")
    wait_for(process, lambda: list(tmp_path.glob(".faces.*.partial/WFLW_images/train--Drawn/*")))
    os.killpg(process.pid, signal.SIGTERM)
    assert "there is nothing to save" in finish(process, 128 + signal.SIGTERM)
