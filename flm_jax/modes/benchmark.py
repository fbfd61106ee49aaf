"""--mode benchmark: how fast each stage is, alone and together, beside what limits it.

The measurements take turns for `benchmark.repeats` rounds, to and fro, so that a machine that slows
down slows them all. The figures are medians; `spread` has the slowest and the fastest round.
"""

import collections
import contextlib
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flm_jax.benchmark import opencv_loop
from flm_jax.benchmark.figures import format_table, summarise
from flm_jax.benchmark.timing import Compilations, calls_per_second
from flm_jax.benchmark.torch_process import torch_process
from flm_jax.benchmark.usage import peak_bytes, seconds_since_start
from flm_jax.config import build, schema
from flm_jax.data.loader import batches_at_a_time, most_waiting, num_readers
from flm_jax.data.workers import num_cores
from flm_jax.errors import InputError
from flm_jax.runtime import work_folder
from flm_jax.runtime.devices import check_batch_size, put_on_devices, replicated
from flm_jax.training.state import create_train_state
from flm_jax.training.step import pmap_eval_step, pmap_train_step

# Slurm, Open MPI and TPUs start it as the processes of one run.
SEVERAL_PROCESSES = True

# That a process of the OpenCV loop holds. Of fewer, the images' mean size is some percent off.
_LOOP_FACES = 2048
_ENDLESS = 10**6  # epochs


def run(config: ConfigDict, workdir: Path) -> None:
    """Measures what the config describes, on the devices that are there; writes benchmark.json.

    Raises:
        InputError: the config, the data or the work folder can't be used, or PyTorch where it is
            asked for.
    """
    against = config.benchmark.against
    if against:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Both use the GPU.
    schema.check(config)
    check_batch_size(config.batch_size, jax.device_count())
    if jax.process_count() > 1:
        raise InputError("--mode benchmark: measures one process; start it as one")
    work_folder.make(workdir)
    build.enable_compilation_cache(config, workdir)
    compilations = Compilations()
    figures: dict[str, Any] = {
        "config": schema.as_json(config),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
        "num_cores": num_cores(),
        "faces_read_from": config.data.prepared or "images",
    }
    config = config.copy_and_resolve_references()
    config.num_epochs = _ENDLESS
    with contextlib.ExitStack() as stack:
        records = build.read_splits(config, workdir).training
        print(build.describe_source(config, workdir))
        with contextlib.closing(build.training_batches(config, records, 0)) as batches:
            batch = jax.tree.map(np.copy, next(batches))  # A view keeps the loader's memory.
        steps = _Steps(config, records, batch)
        jax.block_until_ready(steps.train())
        figures["start_to_first_step_seconds"] = seconds_since_start()
        figures["compilation"] = compilations.summary()
        steps.make_eval_step()
        for _ in range(2):
            jax.block_until_ready((steps.train(), steps.evaluate()))
        flops = count_flops(steps.folded, steps.variables, config.data.image_size)
        # A backward pass costs two forward ones.
        figures["model_flops_per_image"] = {"train": 3 * flops, "eval": flops} if flops else {}
        figures["host_peak_bytes"], figures["device_bytes"] = peak_bytes(), _device_bytes()
        measures: dict[str, Callable[[], float]] = {}
        if against:
            figures["torch"], rate = stack.enter_context(torch_process(_torch_job(config)))
            for kind in ("train", "eval"):
                measures[f"torch_{kind}"] = partial(rate, kind, config.benchmark.seconds)
        measures |= _measures(config, records, steps, stack)
        if jax.device_count() > 1:
            measures["train_one_device"] = _on_one_device(config, records, batch)
        rates = take_turns(measures, config.benchmark.repeats)
    figures |= summarise(
        rates,
        num_devices=figures["num_devices"],
        model_flops_per_image=figures["model_flops_per_image"],
    )
    text = json.dumps(figures, indent=2) + "\n"
    work_folder.write_atomically(workdir / "benchmark.json", lambda path: path.write_text(text))
    print(format_table(figures))


class _Steps:
    """The mapped train and eval step on one batch, on all devices or on those given."""

    def __init__(self, config: ConfigDict, records: list, batch: dict, devices: Any = None):
        self._config = config
        self._model, self._face_loss = build.build_model(config), build.build_face_loss(config)
        schedule = build.build_schedule(config, len(records))
        optimizer = build.build_optimizer(config, schedule)
        self._batch = put_on_devices(batch, devices)
        self._state = create_train_state(
            *(self._model, optimizer, jax.random.key(config.seed), config.data.image_size),
            replicated(devices),
            with_ema=config.ema_decay > 0,
            given=build.starting_values(config, self._model, records),
        )
        self._train_step = pmap_train_step(
            *(self._model, optimizer, self._face_loss, schedule, config.ema_decay),
            skip_nonfinite=config.on_nonfinite == "skip",
            devices=devices,
        )

    def train(self, batch: dict[str, Any] | None = None) -> Any:
        """A step on the batch given, or on the one that is on the devices."""
        placed = self._batch if batch is None else put_on_devices(batch)
        self._state, scalars = self._train_step(self._state, placed)
        return scalars["loss"]

    def make_eval_step(self) -> None:
        self.folded = build.build_model(self._config, folded=True)
        # Copies: the next train step takes the memory of the state.
        variables = self._model.fold_batch_norm(self._state.eval_variables)
        self.variables = jax.tree.map(jnp.copy, variables)
        self._eval_step = pmap_eval_step(self.folded, self._face_loss)

    def evaluate(self) -> Any:
        return self._eval_step(self.variables, self._batch)["loss"]


def count_flops(model: nn.Module, variables: Any, image_size: int) -> float | None:
    """Floating-point operations of the network for an image, as XLA counts them; None where it
    does not.

    Args:
        model: images -> outputs.
        variables: what it takes, arrays or shapes.
        image_size: the side of the image.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    apply = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
    # The CPU's client counts, as a GPU's has no such analysis; "tpu" means plain convolutions.
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out.
        return None
    with jax.default_device(cpu):
        lowered = apply.trace(shapes, image).lower(lowering_platforms=("tpu",))
        cost: Any = lowered.cost_analysis()
    return cost["flops"] if cost else None


def _device_bytes() -> int:
    """The most that a device has had in use; where it does not tell, what arrays hold now."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    return sum(array.nbytes for array in jax.live_arrays())


def _on_one_device(config, records, batch) -> Callable[[], float]:
    """Images a second of the train step on one device, with its share of the batch."""
    share = config.batch_size // jax.device_count()
    batch = {name: values[:share] for name, values in batch.items()}
    steps = _Steps(config, records, batch, jax.local_devices()[:1])
    jax.block_until_ready(steps.train())
    return lambda: share * _rate(steps.train, config.benchmark.seconds)


def _measures(config, records, steps, stack) -> dict[str, Callable[[], float]]:
    """What is measured in every round: images a second, and FLOP a second of a product."""
    data, images, seconds = config.data, config.batch_size, config.benchmark.seconds
    chosen = np.linspace(0, len(records) - 1, _LOOP_FACES).astype(int)
    faces = opencv_loop.samples(
        [records[i] for i in chosen], data.image_size, data.box, data.crop.to_dict()
    )
    opencv = stack.enter_context(
        opencv_loop.on_all_cores(num_cores(), faces, data.image_size, images)
    )
    loader = _Loader(config, records, stack)
    last = {}

    def measure_train():
        last["train"] = images * _rate(steps.train, seconds)
        return last["train"]

    def measure_loader():
        last["loader"] = loader.rate(seconds)
        return last["loader"]

    def measure_end_to_end():
        jax.block_until_ready(steps.train())
        if last["loader"] < last["train"]:
            loader.use_up_buffers()
        rate = calls_per_second(lambda: steps.train(next(loader.batches)), seconds)
        loader.fill_buffers(last["loader"])
        return images * rate

    return {
        "train": measure_train,
        "eval": lambda: images * _rate(steps.evaluate, seconds),
        "decode_limit": lambda: opencv("decode_limit", seconds),
        "bare_loop": lambda: opencv("bare_loop", seconds),
        "loader": measure_loader,
        "end_to_end": measure_end_to_end,
        "matrix_product_flops": _matrix_product(config.model.dtype, seconds),
    }


class _Loader:
    """The training loader, one for all rounds: a new one is slower until its memory has been
    written to once. Its buffers are full when another measurement has the cores."""

    def __init__(self, config: ConfigDict, records: list, stack: contextlib.ExitStack):
        readers = (config.data.num_workers, config.data.num_threads)
        self._images = config.batch_size
        self._buffered = most_waiting(self._images, *readers)
        # Of all readers, which end their batches at about the same time.
        self._turn = num_readers(*readers) * batches_at_a_time(self._images)
        self.batches = build.training_batches(config, records, 0)
        stack.enter_context(contextlib.closing(self.batches))

    def rate(self, seconds: float) -> float:
        """Images a second, when the buffers are used up."""
        self.use_up_buffers()
        turns = calls_per_second(lambda: self._take(self._turn), seconds)
        rate = turns * self._turn * self._images
        self.fill_buffers(rate)
        return rate

    def use_up_buffers(self) -> None:
        self._take(2 * self._buffered)  # Twice, as all threads begin anew when none is left.

    def fill_buffers(self, rate: float) -> None:
        time.sleep(1.5 * self._buffered * self._images / rate)

    def _take(self, count):
        for _ in itertools.islice(self.batches, count):
            pass


def _rate(step, seconds) -> float:
    """Steps a second, after one: while others took their turns, its memory has gone cold."""
    jax.block_until_ready(step())
    return calls_per_second(step, seconds)


def _matrix_product(dtype, seconds) -> Callable[[], float]:
    """FLOP a second of a large product, on one device."""
    size = 4096 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(matrix))
    return lambda: 2 * size**3 * calls_per_second(lambda: product(matrix), seconds)


def _torch_job(config: ConfigDict) -> dict[str, Any]:
    """What PyTorch's steps are, as `torch_steps.Steps` takes it."""
    optimizer = config.optimizer.to_dict()
    clip_norm = optimizer.pop("clip_norm")
    # Of the same cost, or of a part of the steps.
    for name in ("backbone_lr_scale", "grad_accum_steps"):
        optimizer.pop(name)
    return {
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "dtype": config.model.dtype,
        "gpu": jax.default_backend() == "gpu",
        "num_threads": num_cores(),
        "ema_decay": config.ema_decay,
        "clip_norm": clip_norm,
        "backbone": config.model.backbone.to_dict(),
        "head": config.model.head.to_dict(),
        "loss": config.loss.to_dict(),
        "optimizer": optimizer,
        "choose_seconds": config.benchmark.seconds,
    }


def take_turns(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each measures in every round, the rounds to and fro."""
    rates: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(repeats):
        # A core is slower just after heavy load, so the order alternates. The first round runs
        # forwards because `end_to_end` needs the loader's and the train step's rates.
        order = list(measures) if turn % 2 == 0 else list(measures)[::-1]
        print(f"round {turn + 1} of {repeats}: {', '.join(order)}", flush=True)
        for name in order:
            rates[name].append(measures[name]())
    return rates
