"""What goes wrong in a way that the user can fix."""

import inspect
from collections.abc import Callable


class InputError(ValueError):
    """Something that the user gave is wrong. The message names the value, the place and the fix.

    `launch.py` prints the message alone; every other exception is a bug and keeps its traceback.
    """


def check_keywords(section: str, function: Callable, *args, **keywords) -> None:
    """Raises InputError if `function` does not take the keywords of the config's section."""
    try:
        inspect.signature(function).bind(*args, **keywords)
    except TypeError as error:
        raise InputError(f"config.{section}: {error}") from None
