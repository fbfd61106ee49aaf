import contextlib

import pytest
from support.launches import read_events

from flm_jax.errors import InputError
from flm_jax.training.metrics_writer import MetricsWriter, read_metrics


def write(workdir, start, steps):
    with contextlib.closing(MetricsWriter(workdir, start)) as writer:
        for step in steps:
            writer.write(step, {"loss": 0.5 * step})


def test_lines_read_back_and_tensorboard_has_a_file(tmp_path):
    write(tmp_path, 0, [1, 2])
    rows = read_metrics(tmp_path)
    assert rows[0].pop("time") <= rows[1].pop("time")
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_what_no_checkpoint_kept_is_cut_off_in_a_file_that_replaces_the_old_one_whole(tmp_path):
    """A kill in the middle leaves the old one: who has it open reads it to its end."""
    write(tmp_path, 0, [1, 2, 3, 4])
    with open(tmp_path / "metrics.jsonl") as opened:
        write(tmp_path, 2, [3])
        assert len(opened.readlines()) == 4
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_an_unfinished_last_line_is_left_out(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"step"', "no JSON"),
        (b"3", "no numbers by their names"),
        (b'{"loss": 1.0}', "no numbers by their names"),
        (b'{"step": 1, "loss": "low"}', "no numbers by their names"),
        (b'{"step": -1%s}' % (30 * b"0"), "no numbers by their names"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_damaged_line_in_the_middle_is_not_hidden(tmp_path, line, message):
    (tmp_path / "metrics.jsonl").write_bytes(line + b'\n{"step": 2}\n')
    with pytest.raises(InputError, match=f"metrics.jsonl:1: {message}"):
        read_metrics(tmp_path)


def test_events_of_another_program_stay(tmp_path):
    write(tmp_path, 0, [1])
    others = {"events.out.tfevents.1700000000.host.1.0", "events.flm_jax", "notes.flm_jax"}
    for name in others:
        (tmp_path / name).write_text("mine")
    write(tmp_path, 1, [2])
    assert {name for name in others if (tmp_path / name).read_text() == "mine"} == others
    assert len(list(tmp_path.glob("events.out.*"))) == 2


def test_the_row_of_an_epoch_that_must_be_validated_again_is_cut_off(tmp_path):
    with contextlib.closing(MetricsWriter(tmp_path, 0)) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 0.5})
            writer.write(step, {"epoch": step})
    with contextlib.closing(MetricsWriter(tmp_path, 2, validated=False)):
        rows = [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(tmp_path)]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 1, "epoch": 1}, {"step": 2, "loss": 0.5}]


def test_tensorboard_reads_what_the_lines_say_after_a_kill(tmp_path):
    """Events beyond the step are cut off, as is half an event, and the times are kept."""
    with contextlib.closing(MetricsWriter(tmp_path, 0)) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 0.5 * step, "rate": 2.0})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    times = [time for _, _, _, time in read_events(tmp_path)]
    events.write_bytes(events.read_bytes()[:-7])
    write(tmp_path, 2, [3, 4])
    read = read_events(tmp_path)
    assert [event[:3] for event in read] == [
        *[(1, "loss", 0.5), (1, "rate", 2.0), (2, "loss", 1.0), (2, "rate", 2.0)],
        *[(3, "loss", 1.5), (4, "loss", 2.0)],
    ]
    assert [time for *_, time in read][:4] == times[:4]


def test_what_was_written_is_on_disk_at_once(tmp_path):
    with contextlib.closing(MetricsWriter(tmp_path, 0)) as writer:
        writer.write(1, {"loss": 0.5})
        assert read_events(tmp_path)[-1][:3] == (1, "loss", 0.5)
        assert read_metrics(tmp_path)[-1]["loss"] == 0.5
