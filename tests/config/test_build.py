from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import change, safetensors_bytes, torch_tensors

from configs import wflw_resnet50
from flm_jax.config import build, schema
from flm_jax.errors import InputError
from flm_jax.models import pretrained, weights_io
from flm_jax.training.state import create_train_state


@pytest.fixture
def config():
    return wflw_resnet50.get_config()


def build_optimizer(config):
    return build.build_optimizer(config, lambda step: 1.0)


@pytest.mark.parametrize(
    ("key", "use"),
    [
        ("model.backbone.widht", build.build_model),
        ("loss.widht", build.build_face_loss),
        ("optimizer.widht", build_optimizer),
        ("schedule.widht", lambda config: build.build_schedule(config, 10)),
        ("data.crop.widht", schema.check),
        # What the program sets itself.
        ("loss.image_size", build.build_face_loss),
        ("schedule.num_steps", lambda config: build.build_schedule(config, 10)),
        ("optimizer.schedule", build_optimizer),
        ("model.backbone.axis_name", build.build_model),
    ],
)
def test_an_unknown_key_of_a_section_is_named(config, key, use):
    section, _, name = key.rpartition(".")
    with pytest.raises(InputError, match=rf"config\.{section}\b.*'{name}'"):
        use(change(config, key, 3))


def test_the_reader_gets_the_settings_of_the_config(config, train_records, monkeypatch):
    seen = []

    def remember(*_, **settings):
        seen.append(settings)
        return (batch for batch in ())

    monkeypatch.setattr(build.loader, "batches", remember)
    config = change(config, "data.num_workers", 3)
    config.batch_size = 8
    config.data.augmentation.hflip.probability = 0.5
    build.training_batches(config, train_records, 5)
    build.evaluation_batches(config, train_records, box="landmarks")
    assert [(each["num_workers"], each["box"]) for each in seen] == [
        (3, "rectangle"),
        (0, "landmarks"),
    ]
    assert seen[0]["start"] == 5
    assert seen[0]["augmentation"] == config.data.augmentation.to_dict()
    assert "augmentation" not in seen[1]
    config.data.augmentation.hflip.probability = 0.0  # As all others: nothing is random.
    build.training_batches(config, train_records, 5)
    assert seen[2]["augmentation"] is None


def test_the_split_has_a_seed_of_its_own(config, faces_root, tmp_path):
    config.data.root, config.data.exif_upright = str(faces_root), True

    def lines(key, seed):
        splits = build.read_splits(change(config, key, seed), tmp_path)
        assert all(record.upright for part in splits for record in part)
        return [record.line for record in splits.validation]

    assert lines("seed", 0) == lines("seed", 1) != lines("data.split_seed", 1)


def test_drawn_faces_are_mixed_into_the_training_alone(config, faces_root, tmp_path):
    config.data.root, config.batch_size = str(faces_root), 8
    config.num_epochs, config.data.image_size = 4, 32
    plain = build.read_splits(config, tmp_path)
    config.data.drawn.update({"train": 6, "seed": 3, "share": 0.25})
    splits = build.read_splits(config, tmp_path)
    assert [len(each) for each in splits[:3]] == [len(each) for each in plain[:3]]
    own = tmp_path / "faces"
    assert all(record.list_path.startswith(str(own)) for record in splits.drawn)
    batches = list(
        build.training_batches(config, splits.trained_on, 0, num_drawn=len(splits.drawn))
    )
    rows = np.concatenate([batch["index"] for batch in batches])
    assert (rows >= len(splits.training)).mean() == pytest.approx(0.25, abs=0.05)
    # Without a pool, as the benchmark reads, the share changes nothing.
    assert len(build.training_sampler(config, 40)) == config.num_epochs * 5


def test_a_training_that_ends_before_its_first_update_is_refused(config):
    config.optimizer.grad_accum_steps = 6
    build.build_schedule(config, 6)
    with pytest.raises(InputError, match="grad_accum_steps=6: no update in a training of 5 steps"):
        build.build_schedule(config, 5)


def test_a_crop_of_no_size_names_the_face(config, train_records):
    config.batch_size = 8
    sides = [(record.box[2:] - record.box[:2]).min() for record in train_records]
    narrow = train_records[int(np.argmin(sides))]
    for margin, line in ((-min(sides) / 2, narrow.line), (-1000.0, 1)):
        changed = change(config, "data.crop.margin", float(margin))
        with pytest.raises(InputError, match=rf"txt:{line}: .*data.crop=.* leaves no crop"):
            build.training_batches(changed, train_records, 0)


def test_the_head_starts_at_the_mean_shape_of_the_training_faces(config, train_records):
    config = change(config, "model.mean_shape", True)
    given = build.starting_values(config, build.build_model(config), train_records)
    shapes = []
    for record in train_records:
        low, high = record.box[:2] - 10, record.box[2:] + 10
        shapes.append((record.landmarks - low) / (high - low) * 224 - 0.5)
    expected = np.mean(shapes, axis=0)
    np.testing.assert_allclose(
        given["params"]["head"]["points"]["bias"].reshape(98, 2), expected, atol=1e-3
    )
    assert given.keys() == {"params"}


def test_a_pretrained_backbone_is_where_training_starts(config, train_records, tmp_path):
    config.model.backbone.update({"stage_sizes": (1,), "width": 4})
    config.data.image_size = 32
    config.model.pretrained = str(tmp_path / "weights.safetensors")
    model = build.build_model(config)
    init = jax.jit(partial(model.init, train=False))
    fresh = init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    backbone = {name: fresh[name]["backbone"] for name in ("params", "batch_stats")}
    (tmp_path / "weights.safetensors").write_bytes(safetensors_bytes(torch_tensors(backbone)))
    given = build.starting_values(config, model, train_records)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b + 1),
        {name: given[name]["backbone"] for name in backbone},
        backbone,
    )
    assert "head" not in given["params"]
    # What the program trains starts there too.
    adam = build.build_optimizer(config, lambda step: 1e-3)
    state = create_train_state(model, adam, jax.random.key(0), 32, given=given)
    np.testing.assert_array_equal(
        state.params["backbone"]["conv1"]["kernel"], given["params"]["backbone"]["conv1"]["kernel"]
    )


@pytest.mark.parametrize("mean_shape", [False, True])
def test_a_pretrained_head_is_where_training_starts_as_far_as_it_fits(
    config, train_records, tmp_path, mean_shape
):
    config.model.backbone.update({"stage_sizes": (1,), "width": 4})
    config.data.image_size = 32
    model = build.build_model(config)
    trained = jax.jit(partial(model.init, train=False))(
        jax.random.key(1), jnp.zeros((1, 32, 32, 3))
    )
    backbone = {name: trained[name]["backbone"] for name in ("params", "batch_stats")}
    tensors = pretrained.name_tensors(backbone, model.backbone.torch_name)
    tensors |= pretrained.name_head(trained["params"]["head"])
    config.model.pretrained = str(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").write_bytes(weights_io.to_safetensors(tensors))
    config.model.mean_shape = mean_shape

    def head():
        return build.starting_values(config, build.build_model(config), train_records)[
            "params"
        ].get("head", {})

    expected = trained["params"]["head"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), head(), expected)
    config.model.head.visibility = 1.0  # which the file has not
    assert head().keys() == {"points"}
    config.model.head.name = "anchors"
    if mean_shape:
        assert {name: list(part) for name, part in head().items()} == {"offsets": ["bias"]}
    else:
        assert not head()


def test_pretrained_weights_that_are_not_there_are_named(config, train_records):
    config.model.pretrained = "gone.safetensors"
    with pytest.raises(InputError, match="model.pretrained=gone.safetensors: no such file"):
        build.starting_values(config, build.build_model(config), train_records)


@pytest.mark.parametrize(
    ("name", "epochs", "step", "said"),
    [
        ("cosine", 96, 480, "num_epochs: 48 -> 96 changes the learning rate after step 480 from 0"),
        ("cosine", 96, 100, "num_epochs: 48 -> 96 changes the learning rate after step 100 from"),
        ("cosine", 48, 480, None),
        ("constant", 96, 480, None),
    ],
)
def test_a_longer_training_says_how_its_learning_rate_jumps(config, name, epochs, step, said):
    config.num_epochs, config.on_new_schedule = 48, "continue"
    with config.unlocked():
        config.schedule = {"name": name, "learning_rate": 1e-3}
        if name == "cosine":
            config.schedule.update({"warmup": 0.1, "final": 0.0})
    found = build.schedule_change(config, change(config, "num_epochs", epochs), step, 10)
    assert said is found is None or found.startswith(f"{said} ")
