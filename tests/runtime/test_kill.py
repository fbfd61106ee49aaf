"""kill -9 at random moments: the next start goes on by itself, to the undisturbed run's end.

Four kills here, and forty with `--full`.
"""

import random
import re
import time

import pytest
from support.launches import count_lines, launch, read_checkpoint, read_log, start, tiny


def committed(workdir):
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def is_saving(workdir):
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill_during(process, workdir, rng, saving):
    """Kills within a save, or anywhere; false where the run was over before."""
    log = workdir / "metrics.jsonl"
    if saving:
        while process.poll() is None and is_saving(workdir):
            pass  # What the last kill left, which the start removes.
        # Saves that pass by first, so that runs make headway.
        for _ in range(rng.randrange(1, 4)):
            while process.poll() is None and not is_saving(workdir):
                pass
            while process.poll() is None and is_saving(workdir) and rng.random() < 0.9:
                time.sleep(0.001)
        while process.poll() is None and not is_saving(workdir):
            pass
        time.sleep(rng.uniform(0, 0.03))
    elif rng.random() < 0.5:
        time.sleep(rng.uniform(0.2, 3))  # As it starts.
    else:
        lines = count_lines(log) + rng.randrange(1, 9)
        while process.poll() is None and count_lines(log) < lines:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
    over = process.poll() is not None
    process.kill()
    process.communicate(timeout=120)
    return not over


@pytest.mark.slow
def test_kills_lose_nothing_and_leave_nothing(faces_root, tmp_path, request):
    kills, rng = (40 if request.config.getoption("--full") else 4), random.Random(4)
    # Steps enough that the run outlasts them.
    long = (f"--config.num_epochs={4 * kills}", "--config.checkpoint.every_steps=1")
    workdir, undisturbed = tmp_path / "work", tmp_path / "undisturbed"
    launch(*tiny(faces_root, undisturbed, *long))
    last, saves_hit = 0, 0
    cache = f"--config.compilation_cache={tmp_path / 'cache'}"  # Cold, so that kills hit it too.
    for killed in range(kills):
        process = start(*tiny(faces_root, workdir, *long, cache))
        assert kill_during(process, workdir, rng, saving=killed % 2 == 0)
        saves_hit += killed % 2 == 0 and is_saving(workdir)
        # What was committed stays, whatever came later.
        assert committed(workdir) >= last
        last = committed(workdir)
    assert saves_hit >= kills // 4
    output = launch(*tiny(faces_root, workdir, *long, cache))
    is_done = last == committed(undisturbed)
    told = "all of them are done" if is_done else f"continuing after step {last}"
    assert not last or told in output
    assert "damaged" not in output
    assert "compilation cache" not in output

    assert read_checkpoint(workdir) == read_checkpoint(undisturbed)
    assert read_log(workdir) == read_log(undisturbed)
    results = [(folder / "evaluation.json").read_text() for folder in (workdir, undisturbed)]
    assert results[0] == results[1]
    for folder in ("", "checkpoints"):
        names = [
            sorted(re.sub(r"\.\d{10}\..*", "", path.name) for path in (at / folder).iterdir())
            for at in (workdir, undisturbed)
        ]
        assert names[0] == names[1]
