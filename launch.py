"""Trains and uses the landmark network: `python launch.py --config configs/wflw_resnet50.py`.

On a CPU with Linux, the environment variable GLIBC_TUNABLES=glibc.malloc.hugetlb=1 maps XLA's
arrays in huge pages, which makes a train step about a tenth faster (ResNet-50, 64 px).
"""

import importlib
import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from flm_jax.runtime.log import outlive_log
from flm_jax.runtime.signals import exit_on_signals


def _with_home(match: re.Match) -> str:
    return match[1] + os.path.expanduser(match[2])


# Shells know ~ only where a word begins.
sys.argv[1:] = [re.sub("^(--?config=)(~.*)", _with_home, word) for word in sys.argv[1:]]
try:
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe; --config.key=value changes one of its settings."
    )
except flags.Error as error:  # It reads --flagfile.
    sys.exit(f"error: {str(error).removeprefix('ERROR:: ')}")
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
    from flm_jax.config import schema, weights
    from flm_jax.errors import InputError
    from flm_jax.runtime import processes, quiet

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # app.run has set INFO.
        quiet.quiet_libraries()
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name}").expanduser()
    try:
        mode = importlib.import_module(f"flm_jax.modes.{_MODE.value}")
        processes.connect(
            *(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value),
            announced=getattr(mode, "SEVERAL_PROCESSES", False),
        )
        given = {
            name: os.path.expanduser(flag.value)
            for name, flag in _OPTIONS.items()
            if flag.value is not None
        }
        if given and _MODE.value != "predict":
            raise InputError(f"--{next(iter(given))} is for --mode predict")
        config = _CONFIG.value
        if getattr(mode, "CONFIG_OF_WEIGHTS", False):
            overrides = config_flags.get_override_values(flags.FLAGS["config"])
            config = weights.trained_config(workdir, overrides)
        schema.expand_home(config)
        mode.run(config, workdir, **given)
    except (InputError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):  # A full disk, mostly.
            text = f"{error.filename2 or error.filename or workdir}: {error.strerror or error}"
        print(f"error: {text}", file=sys.stderr)
        processes.leave(1)
    except Exception as error:
        if not (text := processes.lost_process(error)):
            raise
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
        if _is_of_config_file(error):
            raise
        # ml_collections wraps its message in the quotes of two exceptions.
        text = re.sub(r"\\n", ". ", re.sub(r"[\\]*'", "", str(error.args[0]))).strip('"')
        sys.exit(f"error: no such key in the config: {text}")


def _is_of_config_file(error: Exception) -> bool:
    """Whether the code of a config file has raised it, rather than an override's key."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = _is_of_config_file.__code__.co_filename
    names = [code.co_name for code in codes if code.co_filename != own]
    return "get_config" in names or "<module>" in names


if __name__ == "__main__":
    outlive_log()
    with exit_on_signals("there is nothing to save"):
        app.run(main, flags_parser=_parse_flags)
