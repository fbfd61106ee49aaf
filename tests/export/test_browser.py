"""The page in headless Chromium, as a person would use it, and its crop against Python's.

    python -m pytest -n 0 -m browser

needs `chromium`, `chromedriver` and `npm`. The plain `pytest` leaves these tests out.
"""

import json
import os
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from support.networks import make_config, save_weights
from webdriver import FOUND, SETTLED, Browser, points_of, serve, type_box

from flm_jax import geometry
from flm_jax.data.crop import crop_image, crop_map, normalise
from flm_jax.data.images import read_record_image
from flm_jax.modes import export

pytestmark = pytest.mark.browser

SIZE = 32
WARNED = "return !document.getElementById('alert').hidden"


@pytest.fixture(scope="module")
def page(tmp_path_factory, faces_root):
    """Its folder, its address, and the network as a function of (BGR image, box)."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    config.data.crop.update({"margin": 3.0, "factor": 1.1})
    model, variables = save_weights(config, workdir, head=40.0)
    export.run(config, workdir)
    folder = workdir / "export/browser"
    apply = jax.jit(lambda images: model.apply(variables, images, train=False)["landmarks"])

    def find(image, box):
        image_from_crop, crop = cut(image, box, config.data.crop)
        images = np.zeros((1, SIZE, SIZE, 3), np.float32)
        normalise(crop, out=images[0])
        return geometry.apply(image_from_crop, np.asarray(apply(images))[0])

    with serve(folder) as address:
        yield folder, address, find


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def cut(image, box, crop, size=SIZE):
    crop_from_image = crop_map(np.asarray(box, np.float32), size, **crop)
    image_from_crop = geometry.invert(crop_from_image)
    return image_from_crop, crop_image(image, image_from_crop, size)


@pytest.fixture(scope="module")
def drawn(test_records, tmp_path_factory):
    """A drawn image as a PNG, and the box of a face of it, not in whole pixels."""
    record = max(test_records, key=lambda record: record.box[2] - record.box[0])
    image = read_record_image(record)
    path = tmp_path_factory.mktemp("drawn") / "face.png"
    cv2.imwrite(str(path), image)
    return path, image, [float(side) + 0.3 for side in record.box]


def open_image(browser, address, path):
    browser.open(address)
    browser.wait(SETTLED)
    browser.type("#file", str(path))
    browser.wait(FOUND)


def keep(screenshot, name):
    """Into the folder SCREENSHOTS, if it is set, to be looked at."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(screenshot)


def test_the_page_finds_pythons_points(browser, page, drawn):
    path, image, box = drawn
    open_image(browser, page[1], path)
    browser.run("document.getElementById('coordinates').open = true")
    height, width = image.shape[:2]
    boxes = [
        box,  # shrunk: the image is area-reduced first
        [40.25, 31.5, 66.75, 60.0],  # enlarged
        [-30.0, -20.5, width / 2, height / 2],  # beyond the image's corner
        [-0.5, -0.5, width - 0.5, height - 0.5],
        [round(side) for side in box],
    ]
    for own in boxes:
        type_box(browser, own)
        expected = page[2](image, own)
        # Half a pixel of the image, forgotten anywhere, would be seen.
        moved = page[2](image, [side + 0.5 for side in own])
        assert np.abs(moved - expected).max() > 0.5
        found = points_of(browser)
        assert np.abs(found - expected).max() < 0.5, own
    type_box(browser, box)
    keep(browser.screenshot(), "points")
    assert browser.log() == []


def test_dragging_the_box_moves_the_points(browser, page, drawn):
    path, image, _ = drawn
    open_image(browser, page[1], path)
    before = points_of(browser)
    place = browser.run(
        "const r = document.getElementById('canvas').getBoundingClientRect();"
        "return [r.x, r.y, r.width]"
    )
    unit = image.shape[1] / place[2]
    box = browser.run(SIDES)
    middle = [place[i] + ((box[i] + box[i + 2]) / 2 + 0.5) / unit for i in (0, 1)]
    browser.drag(middle, [middle[0] + 40, middle[1] + 25])
    browser.wait(FOUND)
    moved = browser.run(SIDES)
    shift = np.array([40, 25, 40, 25]) * unit
    np.testing.assert_allclose(np.subtract(moved, box), shift, atol=2 * unit)
    assert np.abs(points_of(browser) - before).max() > 1
    corner = [place[0] + (moved[2] + 0.5) / unit, place[1] + (moved[3] + 0.5) / unit]
    browser.drag(corner, [corner[0] - 20, corner[1] - 30])
    browser.wait(FOUND)
    resized = np.subtract(browser.run(SIDES), moved)
    np.testing.assert_allclose(resized, [0, 0, -20 * unit, -30 * unit], atol=2 * unit)


SIDES = (
    "return ['xmin', 'ymin', 'xmax', 'ymax'].map((id) => document.getElementById(id).valueAsNumber)"
)


def test_a_dropped_image_is_opened(browser, page, drawn):
    browser.open(page[1])
    browser.wait(SETTLED)
    data = list(drawn[0].read_bytes())
    browser.run(
        """
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], 'dropped.png'));
        document.body.dispatchEvent(
          new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
        """,
        data,
    )
    browser.wait(FOUND)
    assert "dropped.png" in browser.run("return document.getElementById('canvas').ariaLabel")


def test_the_camera_is_followed_live(browser, page):
    browser.open(page[1])
    browser.wait(SETTLED)
    browser.click("#camera")
    browser.wait("return /ms a frame/.test(document.getElementById('status').textContent)")
    browser.run(
        "window.texts = new Set();"
        "new MutationObserver(() => texts.add(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), { childList: true })"
    )
    browser.wait("return texts.size > 2")  # frame after frame
    keep(browser.screenshot(), "camera")
    browser.click("#camera")
    assert browser.run("return document.getElementById('camera').ariaPressed") == "false"


@pytest.mark.parametrize("name", ["empty.png", "words.txt"])
def test_what_is_no_image_is_refused(browser, page, tmp_path, name):
    path = tmp_path / name
    path.write_text("" if name == "empty.png" else "not an image")
    browser.open(page[1])
    browser.wait(SETTLED)
    browser.type("#file", str(path))
    browser.wait(WARNED)
    assert browser.text("#alert").startswith(f"{name}: not an image that this browser can read")


def test_a_box_without_an_area_or_beside_the_image_is_refused(browser, page, drawn):
    open_image(browser, page[1], drawn[0])
    before = points_of(browser)
    browser.type("#xmax", "-900\n")
    browser.wait(WARNED)
    assert "right must exceed left" in browser.text("#alert")
    np.testing.assert_array_equal(points_of(browser), before)
    browser.type("#xmax", "90000\n")
    browser.wait(FOUND)
    browser.type("#xmin", "80000\n")
    browser.wait(WARNED)
    assert "shows nothing of the image" in browser.text("#alert")


def test_without_its_runtime_the_page_says_so(browser, page):
    vendor = page[0] / "vendor"
    vendor.rename(page[0] / "away")
    try:
        browser.open(page[1])
        browser.wait("return document.body.dataset.state === 'failed'")
        assert "onnxruntime-web is not in this folder's vendor/" in browser.text("#alert")
    finally:
        (page[0] / "away").rename(vendor)


def test_nothing_but_the_own_server_is_asked(browser, page, drawn):
    open_image(browser, page[1], drawn[0])
    asked = browser.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert asked
    assert all(name.startswith(page[1]) for name in asked)
    said = browser.run("return document.querySelector('meta[http-equiv]').content")
    assert said.startswith("default-src 'self';")


def test_the_crop_is_pythons_to_a_level(browser, page, drawn):
    """The same bytes, but for what a last digit rounds the other way."""
    path, image, _ = drawn
    open_image(browser, page[1], path)
    rng = np.random.default_rng(0)
    height, width = image.shape[:2]
    for trial in range(36):
        corner = rng.uniform(-0.2, 0.7, 2) * (width, height)
        box = np.array([*corner, *(corner + rng.uniform(10, 0.9 * min(width, height), 2))])
        if trial % 2:  # Then `floor` decides on what would be exact whole numbers.
            box = box.round(-1)
        crop = CROPS[trial % len(CROPS)]
        for size in (24, 61):
            _, expected = cut(image, box, crop, size)
            found = browser.run(CUT, box.tolist(), crop, size)
            found = np.array(found, np.uint8).reshape(size, size, 3)
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1, json.dumps([box.tolist(), crop, size])
            assert difference.mean() < 0.05, json.dumps([box.tolist(), crop, size])


CROPS = [
    {"margin": 10.0, "factor": 1.0, "square": False},
    {"margin": 0.0, "factor": 1.15, "square": True},
    {"margin": 0.0, "factor": 1.2, "square": False},
]

# The page's own module, on the image in its file field.
CUT = """
const [box, rule, size] = arguments;
return import("./crop.js").then(async ({ cropBox, cut, imageFromCrop, neededPart }) => {
  const bitmap = await createImageBitmap(document.getElementById("file").files[0]);
  const map = imageFromCrop(cropBox(box, rule), size);
  const part = neededPart(map, size, bitmap.width, bitmap.height);
  if (part.width < 1 || part.height < 1) return Array.from(cut(null, part, map, size));
  const context = new OffscreenCanvas(part.width, part.height).getContext("2d");
  context.drawImage(bitmap, -part.left, -part.top);
  return Array.from(cut(context.getImageData(0, 0, part.width, part.height), part, map, size));
});
"""
