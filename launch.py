"""Trains and uses the landmark network: `python launch.py --config configs/wflw_resnet50.py`.

On a CPU with Linux, the environment variable GLIBC_TUNABLES=glibc.malloc.hugetlb=1 maps XLA's
arrays in huge pages, which makes a train step about a tenth faster (ResNet-50, 64 px).
"""

import importlib
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from flm_jax.runtime.log import outlive_log
from flm_jax.runtime.signals import exit_on_signals

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe; --config.key=value changes one of its settings."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run writes; runs/<name of the config file> by default."
)
_MODES = pathlib.Path(__file__).parent / "flm_jax" / "modes"
_MODE = flags.DEFINE_enum(
    "mode", "train", sorted(path.stem for path in _MODES.glob("[a-z]*.py")), "What to do."
)
_PREDICT = {
    "input": "--mode predict: an image, folder, glob in quotes, video or camera number.",
    "output": "--mode predict: where it writes; <workdir>/predict by default.",
    "boxes": "--mode predict: a file of face boxes, or image: each image is one face.",
}
_OPTIONS = {name: flags.DEFINE_string(name, None, text) for name, text in _PREDICT.items()}
# Slurm, Open MPI and TPUs tell JAX these three by themselves.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, on every process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    from flm_jax.config import weights
    from flm_jax.errors import InputError
    from flm_jax.runtime import processes, quiet

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # app.run has set INFO.
        quiet.quiet_libraries()
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name}")
    try:
        processes.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        mode = importlib.import_module(f"flm_jax.modes.{_MODE.value}")
        given = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
        if given and _MODE.value != "predict":
            raise InputError(f"--{next(iter(given))} is for --mode predict")
        config = _CONFIG.value
        if getattr(mode, "CONFIG_OF_WEIGHTS", False):
            overrides = config_flags.get_override_values(flags.FLAGS["config"])
            config = weights.trained_config(workdir, overrides)
        mode.run(config, workdir, **given)
    except (InputError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):  # A full disk, mostly.
            text = f"{error.filename or workdir}: {error.strerror or error}"
        print(f"error: {text}", file=sys.stderr)
        processes.leave(1)


def _parse_flags(arguments: list[str]) -> list[str]:
    try:
        rest = app.parse_flags_with_usage(arguments)
        _CONFIG.value.items()  # An unreadable config raises only when it is used.
        return rest
    except OSError as error:
        sys.exit(f"error: {error}")
    except (SyntaxError, TypeError, ValueError) as error:
        sys.exit(f"error: a value of the config can't be read: {error}")
    except (AttributeError, KeyError) as error:
        # ml_collections wraps its message in the quotes of two exceptions.
        text = re.sub(r"\\n", ". ", re.sub(r"[\\]*'", "", str(error.args[0]))).strip('"')
        sys.exit(f"error: no such key in the config: {text}")


if __name__ == "__main__":
    outlive_log()
    with exit_on_signals("there is nothing to save"):
        app.run(main, flags_parser=_parse_flags)
