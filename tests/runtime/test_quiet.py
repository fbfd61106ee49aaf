import os
import subprocess
import sys

from support.launches import ROOT

# Sets the loggers up as launch.py does, and lets the libraries speak.
PROGRAM = """
import logging, sys
sys.argv = ["launch.py", "--config=configs/demo.py", "--workdir={workdir}", "--mode=preview"]

class Dies:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)

def speak(*_):
    logging.getLogger("jax._src.xla_bridge").warning("a GPU is present and not used")
    import absl.logging
    absl.logging.error("a step of Orbax's work")
    logging.getLogger("asyncio").error("Future exception was never retrieved")
    Dies("Event loop is closed")
    Dies("something else")
    raise SystemExit

import flm_jax.modes.preview
flm_jax.modes.preview.run = speak
import runpy
runpy.run_path("launch.py", run_name="__main__")
"""


def test_named_libraries_are_silent_and_all_others_print(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(workdir=tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "a GPU is present and not used" in process.stderr
    assert "something else" in process.stderr
    for text in ("Orbax", "Future exception", "loop is closed"):
        assert text not in process.stderr
