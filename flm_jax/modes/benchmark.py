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
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flm_jax.benchmark import opencv_loop
from flm_jax.benchmark.figures import format_table, summarise
from flm_jax.benchmark.timing import Compilations, calls_per_second, peak_bytes, seconds_since_start
from flm_jax.benchmark.torch_process import TorchProcess, torch_process
from flm_jax.config import build, schema
from flm_jax.data.loader import batches_at_a_time, most_waiting, num_readers
from flm_jax.data.workers import num_cores
from flm_jax.errors import InputError
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.runtime import work_folder
from flm_jax.runtime.devices import put_on_devices, replicated
from flm_jax.training.state import create_train_state
from flm_jax.training.step import pmap_eval_step, pmap_train_step

# That a process of the bare loop holds. Of fewer, the pictures' mean size is some percent off.
_BARE_FACES = 2048

# Of the square matrices whose product is the peak that utilisation refers to.
_MATRIX = {"cpu": 4096}
_LARGE_MATRIX = 8192

_ENDLESS = 10**6  # epochs


def run(config: ConfigDict, workdir: Path) -> None:
    """Measures what the config describes, on the devices that are there; writes benchmark.json.

    Raises:
        InputError: the config, the data or the work folder can't be used, or PyTorch where it is
            asked for.
    """
    if config.benchmark.against == "torch":
        # Both need memory on a GPU.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    schema.check(config)
    if jax.process_count() > 1:
        raise InputError("--mode benchmark: measures one process; start it as one")
    work_folder.make(workdir)
    build.enable_compilation_cache(config, workdir)
    compilations = Compilations()
    config = config.copy_and_resolve_references()
    given = schema.as_json(config)
    config.num_epochs = _ENDLESS
    with contextlib.ExitStack() as stack:
        records = build.read_splits(config, workdir).training
        print(build.describe_source(config, workdir))
        steps = _Steps(config, records)  # Takes the first.
        figures: dict[str, Any] = {
            "config": given,
            "device": jax.devices()[0].device_kind,
            "num_devices": jax.device_count(),
            "processor": platform.processor() or platform.machine(),
            "num_cores": num_cores(),
            "faces_read_from": config.data.prepared or "pictures",
            "start_to_first_step_seconds": seconds_since_start(),
            "compilation": compilations.summary(),
        }
        steps.warm_up()
        figures["model_flops_per_image"] = steps.count_flops()
        figures["host_peak_bytes"] = peak_bytes()
        figures["device_bytes"] = steps.device_bytes()
        rival = None
        if config.benchmark.against == "torch":
            rival = stack.enter_context(_torch(config))
            figures["torch"] = rival.about
        measures = _measures(config, records, steps, rival, stack)
        rates = take_turns(measures, config.benchmark.repeats)
    figures |= summarise(rates, figures)
    text = json.dumps(figures, indent=2) + "\n"
    work_folder.write_atomically(workdir / "benchmark.json", lambda path: path.write_text(text))
    print(format_table(figures))


class _Steps:
    """The mapped train and eval step on a batch of the loader, after their first step."""

    def __init__(self, config: ConfigDict, records: list):
        self._config = config
        model = build.build_model(config)
        self._face_loss = build.build_face_loss(config)
        self._schedule = build.build_schedule(config, len(records))
        self._optimizer = build.build_optimizer(config, self._schedule)
        self._model = model
        with contextlib.closing(build.training_batches(config, records, 0)) as batches:
            self.batch = jax.tree.map(np.copy, next(batches))  # A view keeps the loader's memory.
        self._given = build.starting_values(config, model, records)
        self._state = self._create_state(None)
        self._train_step = self._map(None)
        self._on_devices = put_on_devices(self.batch)
        jax.block_until_ready(self.train())

    def _create_state(self, devices):
        config = self._config
        return create_train_state(
            *(self._model, self._optimizer, jax.random.key(config.seed), config.data.image_size),
            replicated(devices),
            averaged=config.ema_decay > 0,
            given=self._given,
        )

    def _map(self, devices):
        return pmap_train_step(
            *(self._model, self._optimizer, self._face_loss, self._schedule),
            self._config.ema_decay,
            skip_nonfinite=self._config.on_nonfinite == "skip",
            devices=devices,
        )

    def train(self, batch: dict[str, Any] | None = None) -> Any:
        batch = self._on_devices if batch is None else put_on_devices(batch)
        self._state, scalars = self._train_step(self._state, batch)
        return scalars["loss"]

    def evaluate(self) -> Any:
        return self._eval_step(self._variables, self._on_devices)["loss"]

    def on_one_device(self) -> Callable[[], Any]:
        """The train step on one device, with its share of the batch."""
        device = jax.local_devices()[:1]
        share = len(self.batch["mask"]) // jax.local_device_count()
        batch = put_on_devices({k: v[:share] for k, v in self.batch.items()}, device)
        state, step = self._create_state(device), self._map(device)

        def train():
            nonlocal state
            state, scalars = step(state, batch)
            return scalars["loss"]

        jax.block_until_ready([train() for _ in range(2)])
        return train

    def warm_up(self) -> None:
        """Makes the eval step, and takes both steps."""
        self._folded = build.build_model(self._config, folded=True)
        self._eval_step = pmap_eval_step(self._folded, self._face_loss)
        # Copies: the next step takes the memory of the state.
        folded = fold_batch_norm(self._state.averaged_variables)
        self._variables = jax.tree.map(jnp.copy, folded)
        for _ in range(2):
            jax.block_until_ready((self.train(), self.evaluate()))

    def count_flops(self) -> dict[str, float]:
        """Of an image; a backward pass costs two forward ones."""
        flops = count_flops(self._folded, self._variables, self._config.data.image_size)
        return {"eval": flops, "train": 3 * flops}

    def device_bytes(self) -> int:
        """The most that a device has had in use; where it does not tell, what arrays hold now."""
        stats = jax.local_devices()[0].memory_stats()
        if stats:
            return stats["peak_bytes_in_use"]
        return sum(array.nbytes for array in jax.live_arrays())


def count_flops(model: nn.Module, variables: Any, image_size: int) -> float:
    """Of the network for an image, as XLA counts them."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    apply = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
    # On a CPU the network multiplies less, which is to show as a better use of the device.
    cost: Any = apply.trace(variables, image).lower(lowering_platforms=("tpu",)).cost_analysis()
    return cost["flops"]


def _torch(config: ConfigDict) -> contextlib.AbstractContextManager[TorchProcess]:
    optimizer = config.optimizer.to_dict()
    for name in (
        "backbone_lr_scale",
        "grad_accum_steps",
    ):  # Of the same cost, or of a part of the steps.
        optimizer.pop(name)
    return torch_process(
        {
            "gpu": jax.default_backend() == "gpu",
            "num_threads": num_cores(),
            "batch_size": config.batch_size,
            "image_size": config.data.image_size,
            "dtype": config.model.dtype,
            "backbone": config.model.backbone.to_dict(),
            "loss": config.loss.to_dict(),
            "clip_norm": optimizer.pop("clip_norm"),
            "optimizer": optimizer,
            "ema_decay": config.ema_decay,
            "choose_seconds": config.benchmark.seconds,
        }
    )


def _measures(config, records, steps, rival, stack) -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured in every round: each gives rates in images a second, or FLOP a second."""
    seconds, size, images = config.benchmark.seconds, config.data.image_size, config.batch_size
    data = config.data
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, _BARE_FACES).astype(int)]
    faces = opencv_loop.samples(chosen, size, data.box, data.crop.to_dict())
    bare = stack.enter_context(opencv_loop.in_processes(num_cores(), faces, size, images))

    def alone():
        found = opencv_loop.measure(faces, size, images, seconds)
        return {f"{name}_one_thread": rate for name, rate in found._asdict().items()}

    def on_all_cores():
        return bare(seconds)._asdict()

    last: dict[str, float] = {}
    batches = _Loader(config, records, stack)

    def loader():
        last["loader"] = batches.rate(seconds)
        return {"loader": last["loader"]}

    def end_to_end():
        train = _warm(steps.train)
        if last["loader"] < last["train"]:
            batches.use_up_buffers()
        rate = calls_per_second(lambda: train(batches.next()), seconds)
        batches.fill_buffers(last["loader"])
        return {"end_to_end": images * rate}

    def train():
        last["train"] = images * calls_per_second(_warm(steps.train), seconds)
        return {"train": last["train"]}

    def of_torch(kind):
        if rival is None:
            return {}
        name = f"torch_{kind}"
        return {name: lambda: {name: rival.rate(kind, seconds)}}

    found: dict[str, Callable[[], dict[str, float]]] = {
        "train": train,
        **of_torch("train"),
        "eval": lambda: {"eval": images * calls_per_second(_warm(steps.evaluate), seconds)},
        **of_torch("eval"),
        # Beside each other, as they are compared.
        "on_all_cores": on_all_cores,
        "loader": loader,
        "end_to_end": end_to_end,
        "alone": alone,
        "matrix_product": _matrix_product(config.model.dtype, seconds),
    }
    if jax.device_count() > 1:
        one, share = steps.on_one_device(), images // jax.device_count()
        found["one_device"] = lambda: {
            "train_one_device": share * calls_per_second(_warm(one), seconds)
        }
    return found


class _Loader:
    """The training loader, one for all rounds: a new one is slower until its memory has been
    written to once. Its buffers are full when another measurement has the cores."""

    def __init__(self, config: ConfigDict, records: list, stack: contextlib.ExitStack):
        data = config.data
        self._images = config.batch_size
        self._buffered = most_waiting(self._images, data.num_workers, data.num_threads)
        # Of all readers, which end their batches at about the same time.
        readers = num_readers(data.num_workers, data.num_threads)
        self._turn = readers * batches_at_a_time(self._images)
        self._batches = build.training_batches(config, records, 0)
        stack.enter_context(contextlib.closing(self._batches))

    def next(self) -> dict[str, Any]:
        return next(self._batches)

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
        for _ in itertools.islice(self._batches, count):
            pass


def _warm(step):
    """The step, taken once: while others took their turns, its memory has gone cold."""
    jax.block_until_ready(step())
    return step


def _matrix_product(dtype, seconds) -> Callable[[], dict[str, float]]:
    """FLOP a second of a large product, on one device."""
    size = _MATRIX.get(jax.default_backend(), _LARGE_MATRIX)
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(matrix))
    return lambda: {
        "matrix_product_flops": 2 * size**3 * calls_per_second(lambda: product(matrix), seconds)
    }


def take_turns(
    measures: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int
) -> dict[str, list[float]]:
    """What each measures in every round, the rounds to and fro."""
    rates: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(repeats):
        # Cores are slower after hard work: nobody is to come after somebody else's every time. The
        # first round goes forth, as `end_to_end` looks at what was measured before it.
        order = list(measures) if turn % 2 == 0 else list(measures)[::-1]
        print(f"round {turn + 1} of {repeats}: {', '.join(order)}", flush=True)
        for measure in order:
            for name, rate in measures[measure]().items():
                rates[name].append(rate)
    return rates
