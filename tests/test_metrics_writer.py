import contextlib

import pytest

from flm_jax.errors import InputError
from flm_jax.metrics_writer import MetricsWriter, read_metrics


def write(workdir, start, steps):
    with contextlib.closing(MetricsWriter(workdir, start)) as writer:
        for step in steps:
            writer.write(step, {"loss": 0.5 * step})


def test_lines_read_back_and_tensorboard_has_a_file(tmp_path):
    write(tmp_path, 0, [1, 2])
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_what_no_checkpoint_kept_is_cut_off(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_an_unfinished_last_line_is_left_out(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_damaged_line_in_the_middle_is_not_hidden(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step"\n{"step": 2}\n')
    with pytest.raises(InputError, match="metrics.jsonl:1: no JSON"):
        read_metrics(tmp_path)
