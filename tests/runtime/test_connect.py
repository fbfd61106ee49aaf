"""Which processes belong to a run, without starting any."""

import threading

import jax
import pytest

from flm_jax.errors import InputError
from flm_jax.runtime import processes


@pytest.fixture
def slurm(monkeypatch):
    """A shell of a job of four tasks; returns what was connected."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    connected = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: connected.append(given))
    return connected


def test_one_process_waits_for_nobody(slurm):
    processes.connect(None, None, None, announced=False)
    processes.connect(None, 1, None)
    assert slurm == []
    processes.connect(None, None, None)
    processes.connect("host:1", 2, 1, announced=False)
    assert slurm == [(None, None, None), ("host:1", 2, 1)]
    with pytest.raises(InputError, match="are given together"):
        processes.connect("host:1", 2, None)


def test_a_process_says_whom_it_waits_for_and_how_to_do_without(slurm, monkeypatch, capfd):
    said, write = threading.Event(), processes.os.write
    monkeypatch.setattr(processes, "_PATIENCE", (0.01, 100))
    monkeypatch.setattr(processes.os, "write", lambda *given: (write(*given), said.set()))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: said.wait(60))
    processes.connect(None, None, None)
    text = capfd.readouterr().err
    assert "(SLURM_NTASKS=4, SLURM_PROCID=1); --num_processes=1 runs this process alone" in text


def test_a_cluster_that_can_not_be_read_is_named(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "one")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: int("one"))
    with pytest.raises(InputError, match=r"SLURM_PROCID=one.*'one'; --num_processes=1 runs this"):
        processes.connect(None, None, None)


def test_a_lost_process_is_told_from_a_bug(monkeypatch):
    error = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [::1]:9\nmore")
    assert processes.lost_process(error) == ""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "has ended (UNKNOWN: Gloo AllGather" in processes.lost_process(error)
    assert processes.lost_process(KeyError("loss")) == ""


def test_who_waits_in_vain_is_told_and_ends(slurm, monkeypatch, capfd):
    ended = []
    left = threading.Event()
    monkeypatch.setattr(processes, "_PATIENCE", (0.01, 0.02))
    monkeypatch.setattr(processes.os, "_exit", lambda code: (ended.append(code), left.set()))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: left.wait(60))
    processes.connect(None, None, None)
    assert ended == [1]
    assert "error: the other processes did not come (SLURM_NTASKS=4" in capfd.readouterr().err
