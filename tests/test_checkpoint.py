import contextlib
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.checkpoint import Checkpoints, Progress
from flm_jax.errors import InputError
from flm_jax.train_state import TrainState
from flm_jax.train_step import replicated


def make_state(step):
    rng = np.random.default_rng(step)
    leaf = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    state = TrainState(
        step=jnp.int32(step),
        params={"head": {"kernel": leaf(4, 6), "bias": leaf(6)}},
        batch_stats={"bn1": {"mean": leaf(4)}},
        opt_state=(leaf(3), {"count": jnp.int32(step)}),
    )
    return jax.device_put(state, replicated())


def save(workdir, losses, keep_last=1, keep_best=1):
    with contextlib.closing(
        Checkpoints(workdir, keep_last=keep_last, keep_best=keep_best)
    ) as checkpoints:
        for step, loss in losses.items():
            extra = {} if loss is None else {"validation_loss": loss}
            checkpoints.save(make_state(step), Progress(7, 0.1 * step), {"step": step}, **extra)


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, {3: 1.0})
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        state, progress = checkpoints.restore(3, make_state(99), replicated())
        assert checkpoints.config(3) == {"step": 3}
    assert progress == Progress(7, 0.1 * 3)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(3)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == replicated()


def test_the_last_and_the_best_are_kept(tmp_path):
    save(tmp_path, {10: 5.0, 20: 2.0, 30: 3.0, 40: 4.0})
    assert steps_in(tmp_path) == [20, 40]


def test_the_best_of_an_earlier_run_is_kept(tmp_path):
    save(tmp_path, {10: 5.0, 20: 2.0})
    save(tmp_path, {30: 3.0, 40: 4.0})
    assert steps_in(tmp_path) == [20, 40]


def test_a_checkpoint_without_validation_is_never_the_best(tmp_path):
    save(tmp_path, {10: 5.0, 20: None, 30: None})
    assert steps_in(tmp_path) == [10, 30]
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("best") == 10
        assert checkpoints.find("last") == 30


def test_a_validation_loss_of_nan_does_not_replace_the_best(tmp_path):
    save(tmp_path, {10: 5.0, 20: 2.0, 30: math.nan, 40: math.nan})
    assert steps_in(tmp_path) == [20, 40]
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("best") == 20


@pytest.mark.parametrize("part", ["state", "config", "progress"])
def test_a_checkpoint_that_lacks_a_part_is_named(tmp_path, part):
    save(tmp_path, {10: 5.0})
    shutil.rmtree(tmp_path / "checkpoints" / "10" / part)

    def read():
        with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
            checkpoints.config(10)
            checkpoints.restore(10, make_state(0), replicated())

    with pytest.raises(InputError, match=r"checkpoints/10: the checkpoint is damaged"):
        read()


def test_a_checkpoint_that_lacks_its_metrics_is_not_the_best(tmp_path):
    save(tmp_path, {10: 5.0, 20: 1.0})
    save(tmp_path, {30: 7.0})
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "metrics")
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("best") == 30


def test_what_a_killed_save_left_is_removed(tmp_path):
    save(tmp_path, {10: 5.0})
    litter = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    litter.mkdir()
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)):
        assert litter.exists()
    with contextlib.closing(Checkpoints(tmp_path)):
        assert not litter.exists()


def test_without_any_validation_the_newest_is_the_best(tmp_path):
    save(tmp_path, {10: None, 20: None}, keep_last=2)
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("best") == 20


def test_a_checkpoint_can_be_named_by_its_step(tmp_path):
    save(tmp_path, {10: 5.0, 20: 6.0})
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("20") == 20
        with pytest.raises(InputError, match=r"checkpoint=15: .* steps \[10, 20\]"):
            checkpoints.find("15")


def test_reading_where_nothing_was_trained_says_so_and_makes_nothing(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there; train first"):
        Checkpoints(tmp_path, read_only=True)
    assert not list(tmp_path.iterdir())
