import logging
import sys
import threading

import pytest

from flm_jax.runtime.orbax_messages import is_of_orbax, quiet_if_it_fails, told_once


def failing(module):
    """A thread of a class from a module, whose error nobody takes."""

    def fail(self):
        raise ValueError(f"of {module}")

    return type("Thread", (threading.Thread,), {"run": fail, "__module__": module})()


def test_orbax_threads_print_nothing_and_others_do(monkeypatch):
    heard = []
    monkeypatch.setattr(threading, "excepthook", lambda error: heard.append(str(error.exc_value)))
    hooks = threading.excepthook, sys.unraisablehook
    with told_once():
        for module in ("orbax.checkpoint", "flm_jax.work"):
            thread = failing(module)
            assert is_of_orbax(thread) == (module == "orbax.checkpoint")
            thread.start()
            thread.join()
    assert heard == ["of flm_jax.work"]
    assert (threading.excepthook, sys.unraisablehook) == hooks


def test_callbacks_tell_of_all_but_a_closed_event_loop(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: heard.append(str(error.exc_value)))

    class Dies:
        def __init__(self, text):
            self.text = text

        def __del__(self):
            raise RuntimeError(self.text)

    with told_once():
        for text in ("Event loop is closed", "something else"):
            Dies(text)
    assert heard == ["something else"]


def test_asyncio_stays_quiet_after_a_failure_alone(monkeypatch):
    log = logging.getLogger("asyncio")
    monkeypatch.setattr(log, "level", logging.WARNING)
    with quiet_if_it_fails():
        assert log.level == logging.CRITICAL
    assert log.level == logging.WARNING
    with pytest.raises(OSError, match="damaged"), quiet_if_it_fails():
        raise OSError("damaged")
    assert log.level == logging.CRITICAL
