import concurrent.futures
import contextlib
import dataclasses
import math
import multiprocessing
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.errors import InputError
from flm_jax.runtime.checkpoint import Checkpoints, DamagedError, SaveError
from flm_jax.runtime.devices import replicated
from flm_jax.training.state import TrainState


def make_state(step):
    rng = np.random.default_rng(step)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

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
            checkpoints.save(make_state(step), {"epoch_loss": 0.1 * step}, {"step": step}, **extra)


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, {3: 1.0})
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        state, progress = checkpoints.restore(3, make_state(99), replicated())
        assert checkpoints.config(3) == {"step": 3}
    assert progress == {"epoch_loss": 0.1 * 3}
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


def test_a_checkpoint_that_lacks_its_validation_loss_is_not_the_best(tmp_path):
    save(tmp_path, {10: 5.0, 20: 1.0})
    save(tmp_path, {30: 7.0})
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "validation_loss")
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("best") == 30


def test_a_folder_that_is_only_read_is_nothing_to_warn_of(tmp_path, caplog):
    save(tmp_path, {10: 5.0})
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert checkpoints.find("last") == 10
    assert not [record.message for record in caplog.records]


def score_file(workdir, step):
    return workdir / "checkpoints" / str(step) / "validation_loss" / "score.json"


def test_a_validation_loss_that_was_changed_is_lost(tmp_path):
    """Though it is a number still, and would be the best."""
    save(tmp_path, {10: 5.0, 20: 2.0})
    save(tmp_path, {30: 7.0})
    path = score_file(tmp_path, 30)
    changed = path.read_text().replace("7.0", "1.0")
    assert changed != path.read_text()
    path.write_text(changed)
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        assert not checkpoints.is_validated(30)
        assert checkpoints.find("best") == 20


def test_what_a_killed_save_left_is_removed(tmp_path):
    save(tmp_path, {10: 5.0})
    litter = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    litter.mkdir()
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)):
        assert litter.exists()
    with contextlib.closing(Checkpoints(tmp_path)):
        assert not litter.exists()


def test_what_is_written_while_it_is_removed_is_removed_too(tmp_path, monkeypatch):
    """TensorStore's threads may still write for a save that has failed."""
    litter = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp" / "state"
    litter.mkdir(parents=True)
    removing, late = shutil.rmtree, [litter, litter]

    def remove(path, **settings):
        removing(path, **settings)
        if late:
            late.pop().mkdir(parents=True)

    monkeypatch.setattr(shutil, "rmtree", remove)
    with contextlib.closing(Checkpoints(tmp_path)):
        assert not late
        assert not litter.parent.exists()


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


def damages(path):
    """What may happen to a file."""
    content = path.read_bytes()
    yield "removed", None
    yield "emptied", b""
    yield "halved", content[: len(content) // 2]
    for share in np.linspace(0, 1, 7):
        at = round(share * (len(content) - 1))
        yield f"byte {at} flipped", content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def damage_every_file(workdir):
    """Checks what each damage leads to, and returns the names of the files where it was noticed."""
    save(workdir, {10: 2.0})
    expected = jax.tree.leaves(make_state(10))
    found = set()
    for path in sorted((workdir / "checkpoints" / "10").rglob("*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        for how, content in damages(path):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
                try:
                    config = checkpoints.config(10)
                    state, progress = checkpoints.restore(10, make_state(99), replicated())
                except DamagedError as error:
                    assert "checkpoints/10: the checkpoint is damaged" in str(error)
                    found.add(path.name)
                else:
                    assert (config, progress) == ({"step": 10}, {"epoch_loss": 1.0}), (path, how)
                    for a, b in zip(jax.tree.leaves(state), expected, strict=True):
                        np.testing.assert_array_equal(a, b, err_msg=f"{path}, {how}")
                    # A validation loss is right or lost, never another.
                    assert checkpoints.is_validated(10) or path.parent.name == "validation_loss"
            path.write_bytes(whole)
    return found


def test_whatever_happens_to_a_file_the_numbers_are_whole_or_the_checkpoint_is_damaged(tmp_path):
    # In a process of its own: Orbax leaves its other reads to the garbage collector when one fails.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(damage_every_file, tmp_path).result()
    assert {"metadata", "manifest.ocdbt", "_METADATA"} <= found


def test_a_byte_flipped_within_an_array_is_noticed(tmp_path, monkeypatch):
    """Whatever Orbax's own files notice: an array that comes back otherwise."""
    save(tmp_path, {10: 2.0})
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints:
        whole = checkpoints._restore

        def restore(step, **items):
            restored = whole(step, **items)
            if "state" in items:
                bias = restored["state"].params["head"]["bias"]
                restored["state"].params["head"]["bias"] = bias.at[3].multiply(1 + 1e-6)
            return restored

        monkeypatch.setattr(checkpoints, "_restore", restore)
        with pytest.raises(DamagedError, match="params/head/bias is not what was saved"):
            checkpoints.restore(10, make_state(99), replicated())


def test_a_checkpoint_of_another_network_is_refused_with_the_names_that_differ(tmp_path):
    save(tmp_path, {10: 2.0})
    other = make_state(10)
    head = {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(6, jnp.bfloat16), "scale": jnp.zeros(3)}
    other = dataclasses.replace(other, params={"head": head}, batch_stats={})
    with (
        contextlib.closing(Checkpoints(tmp_path, read_only=True)) as checkpoints,
        pytest.raises(InputError, match="of another network") as error,
    ):
        checkpoints.restore(10, other, replicated())
    assert not isinstance(error.value, DamagedError)
    assert str(error.value).splitlines()[1:-1] == [
        "  params/head/bias: ['float32', [6]] -> ['bfloat16', [6]]",
        "  params/head/kernel: ['float32', [4, 6]] -> ['float32', [4, 8]]",
        "  params/head/scale: (none) -> ['float32', [3]]",
        "  batch_stats/bn1/mean: ['float32', [4]] -> (none)",
    ]


def test_a_damaged_checkpoint_is_set_aside_and_with_none_left_that_is_said(tmp_path):
    save(tmp_path, {10: 2.0, 20: 3.0})
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.last_step() == 20
        place = checkpoints.set_aside(20)
        assert place == tmp_path / "damaged_checkpoints" / "20"
        assert (place / "state").is_dir()
        assert checkpoints.last_step() == 10
        checkpoints.set_aside(10)
        with pytest.raises(DamagedError, match="none is left to continue from"):
            checkpoints.last_step()
    with (
        contextlib.closing(Checkpoints(tmp_path)) as checkpoints,
        pytest.raises(DamagedError, match="damaged_checkpoints: every checkpoint was damaged"),
    ):
        checkpoints.last_step()


def test_a_validation_loss_may_follow_later(tmp_path):
    save(tmp_path, {10: 5.0, 20: None})
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.is_validated(10)
        assert not checkpoints.is_validated(20)
        checkpoints.set_validation_loss(20, 3.0)
        assert checkpoints.is_validated(20)
        assert checkpoints.find("best") == 20
    save(tmp_path, {30: 4.0})
    assert steps_in(tmp_path) == [20, 30]


def test_a_validation_loss_that_follows_replaces_the_file_whole(tmp_path):
    """A kill in the middle leaves the old one: who has it open reads it to its end."""
    save(tmp_path, {10: None})
    path = score_file(tmp_path, 10)
    old, names = path.read_text(), {file.name for file in path.parent.iterdir()}
    with open(path) as opened, contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.set_validation_loss(10, 3.0)
        assert opened.read() == old != path.read_text()
    assert {file.name for file in path.parent.iterdir()} == names


def test_what_is_no_longer_kept_leaves_nothing_behind(tmp_path):
    """Removed as a whole: a kill in the middle must not leave a step without its parts."""
    left = tmp_path / "discarded_checkpoints" / "5"
    left.mkdir(parents=True)
    save(tmp_path, {10: 2.0, 20: 3.0, 30: 4.0})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}


def test_what_is_no_longer_kept_is_put_away_whole_before_it_is_removed(tmp_path, monkeypatch):
    """So a kill while it is removed leaves no step that lacks a part."""
    monkeypatch.setattr(Checkpoints, "_discard", lambda *_, **__: None)
    save(tmp_path, {10: 2.0, 20: 3.0, 30: 4.0})
    assert steps_in(tmp_path) == [10, 30]
    (away,) = (tmp_path / "discarded_checkpoints").iterdir()
    kept = {path.name for path in (tmp_path / "checkpoints" / "30").iterdir()}
    assert {path.name for path in away.iterdir()} == kept


# TensorStore answers Orbax's event loop, which is closed after the first error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_failed_counts_for_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save(tmp_path, {10: 2.0})
    checkpoints = Checkpoints(tmp_path, keep_last=2)

    def save_and_wait():
        checkpoints.save(make_state(20), {}, {"step": 20})
        checkpoints.wait()

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(SaveError, match="could not be saved"):
            save_and_wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.last_step() == 10
    assert steps_in(tmp_path) == [10]
    checkpoints.save(make_state(20), {}, {"step": 20})
    checkpoints.close()
    assert steps_in(tmp_path) == [10, 20]
