"""The distance of the page's points from Python's, on the faces of an evaluated and exported run.

    PYTHONPATH=. python tests/measure_browser.py WORKDIR ROOT

WORKDIR has predictions.npz and export/browser, ROOT is the data's folder in WFLW's layout. Needs
chromium and chromedriver. Prints the largest distances of a coordinate, in image pixels.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from webdriver import FOUND, SETTLED, Browser, points_of, serve, type_box

from flm_jax.data import wflw


def main(workdir: Path, root: Path) -> None:
    expected = np.load(workdir / "predictions.npz")["landmarks"]
    records = wflw.read_list(root, wflw.TEST_LIST)
    most = np.zeros(len(records))
    with tempfile.TemporaryDirectory() as profile, serve(workdir / "export/browser") as address:
        browser = Browser(profile)
        try:
            browser.open(address)
            browser.wait(SETTLED)
            shown = ""
            for i, record in enumerate(records):
                name = Path(record.image_path).name
                if name != shown:
                    browser.type("#file", record.image_path)
                    browser.wait(SHOWN, name)
                    shown = name
                type_box(browser, record.box)
                most[i] = np.abs(points_of(browser) - expected[i]).max()
        finally:
            browser.close()
    worst = int(most.argmax())
    print(
        f"{len(most)} faces: median {np.median(most):.3f} px, at most {most[worst]:.3f} px "
        f"({records[worst].place})"
    )


SHOWN = f"""
return document.getElementById("canvas").ariaLabel.startsWith(arguments[0]) &&
  (() => {{ {FOUND} }})();
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
