from support.launches import run

# Lets the libraries speak where launch.py has set the loggers up.
PROGRAM = """
import logging, runpy
import absl.logging
import flm_jax.modes.preview

class Dies:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)

def speak(*_):
    logging.getLogger("jax._src.xla_bridge").warning("a GPU is present and not used")
    absl.logging.error("a step of Orbax's work")
    logging.getLogger("asyncio").error("Future exception was never retrieved")
    Dies("Event loop is closed")
    Dies("something else")
    raise SystemExit

flm_jax.modes.preview.run = speak
runpy.run_path("launch.py", run_name="__main__")
"""


def test_named_libraries_are_silent_and_all_others_print(tmp_path):
    (tmp_path / "speaks.py").write_text(PROGRAM)
    _, output = run(f"--workdir={tmp_path}", "--mode=preview", program=tmp_path / "speaks.py")
    assert "a GPU is present and not used" in output
    assert "something else" in output
    for text in ("Orbax", "Future exception", "loop is closed"):
        assert text not in output
