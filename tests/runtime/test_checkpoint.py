import concurrent.futures
import contextlib
import dataclasses
import math
import multiprocessing
import resource
import shutil
import string
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.launches import steps_in

from flm_jax.errors import InputError
from flm_jax.runtime import checkpoint
from flm_jax.runtime.checkpoint import Checkpoints, SaveError
from flm_jax.runtime.devices import replicated
from flm_jax.runtime.restore import DamagedError, SavedCheckpoints
from flm_jax.training.state import TrainState


def make_state(step, with_ema=False):
    rng = np.random.default_rng(step)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def variables():
        return {
            "params": {"head": {"kernel": leaf(4, 6), "bias": leaf(6)}},
            "batch_stats": {"bn1": {"mean": leaf(4)}},
        }

    state = TrainState(
        step=jnp.int32(step),
        **variables(),
        opt_state=(leaf(3), {"count": jnp.int32(step)}),
        ema=variables() if with_ema else {},
    )
    return jax.device_put(state, replicated())


def save(workdir, losses, keep_last=1, keep_best=1, with_ema=False):
    with contextlib.closing(
        Checkpoints(workdir, keep_last=keep_last, keep_best=keep_best)
    ) as checkpoints:
        for step, loss in losses.items():
            extra = {} if loss is None else {"validation_loss": loss}
            state, progress = make_state(step, with_ema), {"epoch_loss": 0.1 * step}
            checkpoints.save(state, progress, {"step": step}, **extra)


def saved(workdir):
    return contextlib.closing(SavedCheckpoints(workdir))


def score_file(workdir, step):
    return workdir / "checkpoints" / str(step) / "validation_loss" / "score.json"


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        assert a.sharding == replicated()


@pytest.mark.parametrize("strange", [*"*?[\\", "\udcff"])
def test_a_path_from_which_nothing_could_be_read_back_is_refused(tmp_path, strange):
    for kind in (Checkpoints, SavedCheckpoints):
        with pytest.raises(InputError, match="in it; rename the folder, or name a link to it"):
            kind(tmp_path / f"a{strange}b")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_checkpoints_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(InputError, match="checkpoints: can't be made: File exists"):
        Checkpoints(tmp_path)


def test_every_other_character_may_stand_in_a_path(tmp_path):
    name = "".join(c for c in string.printable + "é\u4e2d" if c not in "/*?[\\")
    save(tmp_path / name, {3: 1.0})
    with saved(tmp_path / name) as checkpoints:
        checkpoints.restore(3, make_state(99), replicated())


def test_checksums_are_computed_in_the_background_of_what_was_given(tmp_path, monkeypatch):
    """The next step takes the memory of the state."""
    gone, describe = threading.Event(), checkpoint.describe

    def describe_later(leaf):
        assert gone.wait(60)
        return describe(leaf)

    monkeypatch.setattr(checkpoint, "describe", describe_later)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        state = make_state(3)
        checkpoints.save(state, {}, {})
        step = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
        jax.block_until_ready(step(state))
        gone.set()
    with saved(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(3, make_state(99), replicated())[0], make_state(3))


def test_only_what_saves_have_left_is_removed(tmp_path):
    own = ["checkpoints/20.orbax-checkpoint-tmp", "discarded_checkpoints/10"]
    others = ["checkpoints/my.orbax-checkpoint-tmp-notes", "discarded_checkpoints/mine"]
    for name in own + others:
        (tmp_path / name).mkdir(parents=True)
    with contextlib.closing(Checkpoints(tmp_path)):
        assert [(tmp_path / name).exists() for name in own + others] == [False, False, True, True]


@pytest.mark.parametrize("with_ema", [False, True])
def test_what_was_saved_comes_back_bit_for_bit_and_so_do_weights_alone(tmp_path, with_ema):
    """Averaged ones, where averages are kept."""
    save(tmp_path, {3: 1.0}, with_ema=with_ema)
    expected, other = make_state(3, with_ema), make_state(99, with_ema)
    with saved(tmp_path) as checkpoints:
        state, progress = checkpoints.restore(3, other, replicated())
        assert checkpoints.config(3) == {"step": 3}
        assert progress == {"epoch_loss": 0.1 * 3}
        assert_same(state, expected)
        weights = checkpoints.restore_weights(3, other.eval_variables, replicated())
        assert_same(weights, expected.eval_variables)
        weights["params"]["head"]["bias"] = jnp.zeros(7)
        with pytest.raises(InputError, match=r"bias: \['float32', \[6\]\] -> \['float32', \[7\]\]"):
            checkpoints.restore_weights(3, weights, replicated())


@pytest.mark.parametrize(
    ("losses", "kept", "best"),
    [
        ({10: 5.0, 20: 2.0, 30: 3.0, 40: 4.0}, [20, 40], 20),
        ({10: 5.0, 20: None, 30: None}, [10, 30], 10),
        ({10: 5.0, 20: 2.0, 30: math.nan, 40: math.nan}, [20, 40], 20),
        ({10: None, 20: None}, [20], 20),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, losses, kept, best):
    """None and NaN are never the best; the newest is, where none has been validated."""
    save(tmp_path, losses)
    assert steps_in(tmp_path) == kept
    with saved(tmp_path) as checkpoints:
        assert checkpoints.find("best") == best
        assert checkpoints.find("last") == max(losses)


def test_the_best_of_an_earlier_run_is_kept_and_each_is_named_by_its_step(tmp_path):
    save(tmp_path, {10: 5.0, 20: 2.0})
    save(tmp_path, {30: 3.0, 40: 4.0})
    assert steps_in(tmp_path) == [20, 40]
    with saved(tmp_path) as checkpoints:
        assert checkpoints.find("20") == 20
        with pytest.raises(InputError, match=r"checkpoint=15: .* steps \[20, 40\]"):
            checkpoints.find("15")


def test_reading_where_nothing_was_trained_says_so_and_makes_nothing(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there; train first"):
        SavedCheckpoints(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["state", "config", "progress"])
def test_a_checkpoint_that_lacks_a_part_is_named(tmp_path, part):
    save(tmp_path, {10: 5.0})
    shutil.rmtree(tmp_path / "checkpoints" / "10" / part)
    with (
        saved(tmp_path) as checkpoints,
        pytest.raises(DamagedError, match=r"checkpoints/10: the checkpoint is damaged"),
    ):
        checkpoints.restore(10, make_state(0), replicated())


def test_a_validation_loss_that_was_changed_or_removed_is_lost(tmp_path):
    """A changed one may still be a number, and would be the best."""
    save(tmp_path, {10: 5.0, 20: 2.0, 30: 7.0}, keep_last=3)
    path = score_file(tmp_path, 30)
    path.write_text(path.read_text().replace("7.0", "1.0"))
    shutil.rmtree(score_file(tmp_path, 20).parent)
    with saved(tmp_path) as checkpoints:
        assert [checkpoints.is_validated(step) for step in (10, 20, 30)] == [True, False, False]
        assert checkpoints.find("best") == 10
    path.write_text(10**5 * "[")
    with saved(tmp_path) as checkpoints:
        assert not checkpoints.is_validated(30)


def test_what_is_written_while_a_killed_save_is_removed_is_removed_too(tmp_path, monkeypatch):
    """TensorStore's threads may still write for a save that has failed."""
    litter = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp" / "state"
    litter.mkdir(parents=True)
    removing, late = shutil.rmtree, [litter, litter]

    def remove(path, **settings):
        removing(path, **settings)
        if late:
            late.pop().mkdir(parents=True)

    with saved(tmp_path):
        assert litter.exists()
    monkeypatch.setattr(shutil, "rmtree", remove)
    with contextlib.closing(Checkpoints(tmp_path)):
        assert not late
        assert not litter.parent.exists()


def damages(path):
    """What may happen to a file."""
    content = path.read_bytes()
    yield "removed", None
    yield "halved", content[: len(content) // 2]
    for share in np.linspace(0, 1, 4):
        at = round(share * (len(content) - 1))
        yield f"byte {at} flipped", content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def damage_every_file(workdir):
    """Checks what each damage leads to, and returns the names of the files where it was noticed."""
    save(workdir, {10: 2.0})
    expected, found = make_state(10), set()
    for path in sorted((workdir / "checkpoints" / "10").rglob("*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        for how, content in damages(path):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            with saved(workdir) as checkpoints:
                try:
                    config = checkpoints.config(10)
                    shapes = make_state(99).variables
                    weights = checkpoints.restore_weights(10, shapes, replicated())
                    assert_same(weights, expected.variables)
                    state, progress = checkpoints.restore(10, make_state(99), replicated())
                except DamagedError as error:
                    assert "checkpoints/10: the checkpoint is damaged" in str(error)
                    found.add(path.name)
                else:
                    assert (config, progress) == ({"step": 10}, {"epoch_loss": 1.0}), (path, how)
                    assert_same(state, expected)
                    # A validation loss is right or lost, never another.
                    assert checkpoints.is_validated(10) or path.parent.name == "validation_loss"
            path.write_bytes(whole)
    return found


def test_whatever_happens_to_a_file_the_numbers_are_whole_or_the_checkpoint_is_damaged(tmp_path):
    # In a process of its own: Orbax leaves its other reads to the garbage collector when one fails.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(damage_every_file, tmp_path).result()
    assert {"metadata", "manifest.ocdbt", "_METADATA"} <= found


def test_an_array_that_comes_back_otherwise_is_noticed(tmp_path, monkeypatch):
    """Whatever Orbax's own files notice."""
    save(tmp_path, {10: 2.0})
    with saved(tmp_path) as checkpoints:
        whole = checkpoints._restore

        def restore(step, **items):
            restored = whole(step, **items)
            if "state" in items:
                state = restored["state"]
                params = state["params"] if isinstance(state, dict) else state.params
                params["head"]["bias"] = params["head"]["bias"].at[3].multiply(1 + 1e-6)
            return restored

        monkeypatch.setattr(checkpoints, "_restore", restore)
        with pytest.raises(DamagedError, match="params/head/bias is not what was saved"):
            checkpoints.restore(10, make_state(99), replicated())
        with pytest.raises(DamagedError, match="params/head/bias is not what was saved"):
            checkpoints.restore_weights(10, make_state(99).variables, replicated())


def test_a_checkpoint_of_another_network_is_refused_with_the_names_that_differ(tmp_path):
    save(tmp_path, {10: 2.0})
    head = {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(6, jnp.bfloat16), "scale": jnp.zeros(3)}
    other = dataclasses.replace(make_state(10), params={"head": head}, batch_stats={})
    with saved(tmp_path) as checkpoints, pytest.raises(InputError, match="another net") as error:
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
    with (
        contextlib.closing(Checkpoints(tmp_path)) as checkpoints,
        pytest.raises(DamagedError, match="damaged_checkpoints: every checkpoint was damaged"),
    ):
        checkpoints.last_step()


def test_a_validation_loss_may_follow_and_replaces_the_file_whole(tmp_path):
    """A kill in the middle leaves the old one: who has it open reads it to its end."""
    save(tmp_path, {10: 5.0, 20: None})
    path = score_file(tmp_path, 20)
    old, names = path.read_text(), {file.name for file in path.parent.iterdir()}
    with open(path) as opened, contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        assert not checkpoints.is_validated(20)
        checkpoints.set_validation_loss(20, 3.0)
        assert checkpoints.is_validated(20)
        assert opened.read() == old != path.read_text()
    assert {file.name for file in path.parent.iterdir()} == names
    save(tmp_path, {30: 4.0})
    assert steps_in(tmp_path) == [20, 30]


def test_what_is_no_longer_kept_is_moved_whole_and_then_removed(tmp_path, monkeypatch):
    """A kill while it is removed leaves no step that lacks a part."""
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "_remove_discarded", lambda *_, **__: None)
        save(tmp_path, {10: 2.0, 20: 3.0, 30: 4.0})
    assert steps_in(tmp_path) == [10, 30]
    (moved,) = (tmp_path / "discarded_checkpoints").iterdir()
    kept = {path.name for path in (tmp_path / "checkpoints" / "30").iterdir()}
    assert {path.name for path in moved.iterdir()} == kept
    save(tmp_path, {40: 5.0})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}


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
