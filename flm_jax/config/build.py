"""The objects that a config describes.

A section's settings are the keywords of the function that it configures, so an unknown or missing
one is an error that names it.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import augmentation, loader, prepared, sampler, wflw
from flm_jax.data.crop import crop_map, face_box
from flm_jax.data.prepared_face import Uses
from flm_jax.drawing import dataset
from flm_jax.errors import InputError, check_keywords
from flm_jax.models import pretrained, weights_io
from flm_jax.models.heads import HEAD_SIZE, HEADS
from flm_jax.models.network import BACKBONES, LandmarkRegressor, variable_shapes
from flm_jax.runtime import compilation_cache
from flm_jax.runtime.devices import AXIS
from flm_jax.training import losses, optimizer


class Splits(NamedTuple):
    """The faces of a data root: the training list in its two parts, and the test list; and drawn
    faces that are mixed into the training."""

    training: list[wflw.Record]
    validation: list[wflw.Record]
    test: list[wflw.Record]
    drawn: Sequence[wflw.Record] = ()

    @property
    def trained_on(self) -> list[wflw.Record]:
        """What training reads: the training faces, and after them the drawn ones."""
        return [*self.training, *self.drawn]


def enable_compilation_cache(config: ConfigDict, workdir: Path) -> None:
    """Keeps compiled programs where the config says, from the next compilation on."""
    if config.compilation_cache != "off":
        folder = Path(config.compilation_cache or workdir / "compilation_cache")
        try:
            compilation_cache.enable(folder)
        except OSError as error:
            raise InputError(
                f"compilation_cache={folder}: can't be used: {error.strerror}"
            ) from None


def read_lists(config: ConfigDict, workdir: Path) -> dict[str, list[wflw.Record]]:
    """The training and the test list, after drawing the faces where the config says so."""
    if config.data.drawn.train and not config.data.drawn.share:
        _draw(config, data_root(config, workdir), config.data.drawn.test)
    return {
        name: wflw.read_list(data_root(config, workdir), name, upright=config.data.exif_upright)
        for name in (wflw.TRAIN_LIST, wflw.TEST_LIST)
    }


def _draw(config: ConfigDict, root: Path, test: int) -> None:
    drawn = config.data.drawn
    dataset.draw_dataset(root, train=drawn.train, test=test, seed=drawn.seed)


def read_splits(config: ConfigDict, workdir: Path) -> Splits:
    """The faces, with their prepared images where the config says so."""
    data = config.data
    lists = read_lists(config, workdir)
    if data.prepared:
        uses = prepared_uses(config)
        lists = prepared.attach(data.prepared, data_root(config, workdir), lists, uses)
    train_list = wflw.drop_lines(lists[wflw.TRAIN_LIST], data.drop_lines)
    training, validation = wflw.split_by_image(
        train_list, data.validation_fraction, data.split_seed
    )
    if not data.drawn.share:
        return Splits(training, validation, lists[wflw.TEST_LIST])
    _draw(config, workdir / "faces", max(1, data.drawn.test))  # Nobody reads these test faces.
    drawn = wflw.read_list(workdir / "faces", wflw.TRAIN_LIST)
    return Splits(training, validation, lists[wflw.TEST_LIST], drawn)


def data_root(config: ConfigDict, workdir: Path) -> Path:
    """The folder of the lists and images."""
    return Path(config.data.root) if config.data.root else workdir / "faces"


def describe_source(config: ConfigDict, workdir: Path) -> str:
    """One line naming the source of the faces, printed at startup."""
    if config.data.prepared:
        return f"faces are read from {config.data.prepared}, as prepared"
    return f"faces are read from the images in {data_root(config, workdir)}"


def prepared_uses(config: ConfigDict) -> Uses:
    """What prepared faces have to be good for."""
    data = config.data
    augmentations = data.augmentation.to_dict()
    return Uses(
        image_size=data.image_size,
        box=data.box,
        crop=data.crop.to_dict(),
        reach=augmentation.largest_reach(augmentations),
        zoom=augmentation.largest_zoom(augmentations),
        exif_upright=data.exif_upright,
    )


def select_split(config: ConfigDict, workdir: Path, splits: Splits) -> list[wflw.Record]:
    """The faces that `evaluate.split` names."""
    split = config.evaluate.split
    if split in wflw.SUBSETS:
        return wflw.read_subset(data_root(config, workdir), split, splits.test)
    named = {"train": splits.training, "validation": splits.validation, "test": splits.test}
    if split not in named:
        expected = ", ".join([*named, *wflw.SUBSETS])
        raise InputError(f"evaluate.split={split}: expected one of {expected}")
    return named[split]


def training_sampler(
    config: ConfigDict, num_faces: int, num_drawn: int = 0
) -> sampler.TrainingSampler:
    """This process's rows of every training step."""
    return sampler.TrainingSampler(
        num_faces=num_faces,
        num_drawn=num_drawn,
        drawn_share=config.data.drawn.share,
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def training_batches(
    config: ConfigDict,
    records: Sequence[wflw.Record],
    start: int,
    at_unreadable: Callable[[int], object] | None = None,
    num_drawn: int = 0,
) -> Generator[dict[str, ndarray]]:
    """This process's batches from step `start` on, augmented.

    Args:
        config: the augmentation, the crop and the batches.
        records: the training faces, and after them the drawn ones that are mixed in.
        start: the first step.
        at_unreadable: of `loader.batches`.
        num_drawn: how many of the records are mixed in.
    """
    rows = training_sampler(config, len(records) - num_drawn, num_drawn)
    data = config.data
    settings = data.augmentation.to_dict()
    return _batches(
        config,
        rows,
        records,
        box=data.box,
        augmentation=settings if augmentation.changes_faces(settings) else None,
        num_workers=data.num_workers,
        start=start,
        at_unreadable=at_unreadable,
    )


def evaluation_batches(
    config: ConfigDict,
    records: Sequence[wflw.Record],
    *,
    box: str,
    flip: bool = False,
    at_unreadable: Callable[[int], object] | None = None,
) -> Generator[dict[str, ndarray]]:
    """This process's batches of every face once, read by threads of this process.

    Starting worker processes takes seconds, at every epoch's validation.

    Args:
        config: the crop and the batch size.
        records: the faces.
        box: their box, one of `crop.BOXES`.
        flip: whether they are mirrored.
        at_unreadable: of `loader.batches`.
    """
    # Padding fills a batch, so it may be as large as the devices need it.
    size = -(-config.batch_size // jax.device_count()) * jax.device_count()
    rows = sampler.EvaluationSampler(len(records), size, jax.process_index(), jax.process_count())
    return _batches(
        config,
        rows,
        records,
        box=box,
        flip=flip,
        num_workers=0,
        at_unreadable=at_unreadable,
    )


def _batches(config, rows, records, box, **settings):
    data = config.data
    boxes = np.stack([face_box(record, box) for record in records])
    with np.errstate(divide="ignore", invalid="ignore"):  # A crop of no size is told below.
        crops = crop_map(boxes, data.image_size, **data.crop)
    usable = (crops[:, 0, 0] > 0) & (crops[:, 1, 1] > 0) & np.isfinite(crops).all(axis=(1, 2))
    if not usable.all():
        place = records[int(usable.argmin())].place
        raise InputError(f"{place}: data.crop={data.crop.to_dict()} leaves no crop")
    return loader.batches(
        rows,
        records,
        image_size=data.image_size,
        box=box,
        crop=data.crop.to_dict(),
        num_threads=data.num_threads,
        **settings,
    )


def build_model(config: ConfigDict, *, folded: bool = False) -> LandmarkRegressor:
    """The network, with batch norm over all devices, or folded into the convolutions."""
    bound = {"dtype": jnp.dtype(config.model.dtype), "axis_name": AXIS, "folded": folded}
    return LandmarkRegressor(
        backbone=_choose("model.backbone", BACKBONES, config.model.backbone, **bound),
        head=_choose("model.head", HEADS, config.model.head),
    )


def starting_values(
    config: ConfigDict, model: LandmarkRegressor, records: Sequence[wflw.Record]
) -> dict[str, Any]:
    """The variables that do not start at random: a pretrained backbone, the head's bias at the mean
    shape of the training faces, `records`, and over that what the pretrained file has of it."""
    given: dict[str, Any] = {}
    head: dict[str, Any] = {}
    if config.model.pretrained:
        path = config.model.pretrained
        tensors = weights_io.read_tensors(pretrained.DRAWN if path == "drawn" else path)
        shapes = variable_shapes(model, config.data.image_size)
        parts = [name for name in ("params", "batch_stats") if name in shapes]
        backbone: Any = model.backbone
        loaded = pretrained.load_backbone(
            {name: shapes[name]["backbone"] for name in parts}, tensors, backbone.torch_name
        )
        given = {name: {"backbone": loaded[name]} for name in parts}
        head = pretrained.load_head(shapes["params"]["head"], tensors)
    if config.model.mean_shape:
        boxes = np.stack([face_box(record, config.data.box) for record in records])
        maps = crop_map(boxes, HEAD_SIZE, **config.data.crop)
        points = np.stack([record.landmarks for record in records])
        shape = geometry.apply(maps, points).mean(axis=0)
        start = flatten_dict(dict(model.head.start_at(shape)))
        head = unflatten_dict({**start, **flatten_dict(head)})
    if head:
        given.setdefault("params", {})["head"] = head
    return given


def build_face_loss(config: ConfigDict) -> losses.FaceLoss:
    """The training loss: that of the points, and the head's own."""
    head, size = _choose("model.head", HEADS, config.model.head), config.data.image_size
    points_loss = _call(
        "loss",
        losses.make_face_loss,
        config.loss,
        image_size=size,
        head_outputs=head.loss_inputs,
    )
    return lambda outputs, batch: points_loss(outputs, batch) + head.loss(outputs, batch, size)


def build_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """The learning rate of every step of a training of `num_steps`.

    Raises:
        InputError: the training ends before its first update.
    """
    if config.optimizer.grad_accum_steps > num_steps:
        raise InputError(
            f"optimizer.grad_accum_steps={config.optimizer.grad_accum_steps}: no update in a "
            f"training of {num_steps} steps; expected at most as many"
        )
    return _call("schedule", optimizer.make_schedule, config.schedule, num_steps=num_steps)


def schedule_change(
    old: ConfigDict, config: ConfigDict, step: int, steps_per_epoch: int
) -> str | None:
    """How the learning rate after `step` differs from that of the config so far; None if not.

    Raises:
        InputError: it does, and `on_new_schedule` does not accept that.
    """
    rates = [
        float(build_schedule(each, each.num_epochs * steps_per_epoch)(step))
        for each in (old, config)
    ]
    if abs(rates[0] - rates[1]) <= 1e-6 * config.schedule.learning_rate:
        return None
    change = (
        f"num_epochs: {old.num_epochs} -> {config.num_epochs} changes the learning rate after step "
        f"{step} from {rates[0]:.3g} to {rates[1]:.3g}, as schedule.name={config.schedule.name} "
        "covers all epochs"
    )
    if config.on_new_schedule == "stop":
        raise InputError(
            f"{change}; --config.on_new_schedule=continue accepts that, or train anew in another "
            "--workdir"
        )
    return change


def build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser that follows the schedule."""
    return _call("optimizer", optimizer.make_optimizer, config.optimizer, schedule=schedule)


def _call(section, function, settings, **bound):
    """Calls with the section's settings as keywords; they may not set what the caller does."""
    if clash := sorted(set(settings) & set(bound)):
        raise InputError(f"config.{section} has unknown keys {clash}")
    check_keywords(section, function, **settings, **bound)
    return function(**settings, **bound)


def _choose(section, choices, settings, **bound):
    """What `name` chooses, called with the section's other settings."""
    settings = dict(settings)
    name = settings.pop("name")
    if name not in choices:
        raise InputError(f"{section}.name={name}: expected one of {', '.join(choices)}")
    return _call(section, choices[name], settings, **bound)
