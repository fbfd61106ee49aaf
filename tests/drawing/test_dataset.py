"""The drawn faces: labels that are true of the pictures, statistics like WFLW's, and the folder."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from flm_jax.data import wflw
from flm_jax.drawing import camera, dataset, headwear, occluders, scene
from flm_jax.drawing.dataset import draw_dataset, draw_picture
from flm_jax.drawing.layers import ear_layers
from flm_jax.drawing.parameters import HeadParameters, Light
from flm_jax.drawing.render import render_head
from flm_jax.drawing.sampling import sample_head, sample_light
from flm_jax.drawing.surface import (
    Surface,
    landmarks_in_space,
    posed_landmarks,
    project,
    rotation,
)
from flm_jax.errors import InputError
from flm_jax.landmarks import MIRROR, OUTER_EYE_CORNERS

# With this seed, so few faces have every attribute, and some share a picture.
TRAIN, TEST, SEED = 16, 12, 11
LISTS = (wflw.TRAIN_LIST, wflw.TEST_LIST)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    draw_dataset(folder, train=TRAIN, test=TEST, seed=SEED, workers=0)
    return folder


@pytest.fixture(scope="module")
def drawn() -> list[tuple[tuple[dataset.DrawnFace, ...], list[float]]]:
    """Pictures enough for statistics: each one's faces, and what each blur left of its details."""
    ratios = []

    def blur(rng, picture, face_px):
        blurred = blur_as_ever(rng, picture, face_px)
        details = [cv2.Laplacian(image, cv2.CV_32F).std() for image in (picture, blurred)]
        ratios.append(details[1] / details[0])
        return blurred

    blur_as_ever, pictures = camera.blur, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera, "blur", blur)
        for i in range(65):
            before = len(ratios)
            picture = draw_picture(np.random.default_rng([3, i]))
            pictures.append((picture.faces, ratios[before:]))
    return pictures


@pytest.fixture(scope="module")
def faces(drawn) -> list[dataset.DrawnFace]:
    return [face for faces, _ in drawn for face in faces]


def _bytes(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _pixel(image: np.ndarray, point: np.ndarray) -> np.ndarray:
    column, row = np.round(point).astype(int)
    return image[row, column, :3].astype(float)


def _inside(shape, *polygons: np.ndarray) -> np.ndarray:
    """bool[h, w], inside the first polygon and outside the others."""
    mask = np.zeros(shape[:2], np.uint8)
    for value, polygon in zip((1, *[0] * len(polygons)), polygons, strict=False):
        cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], value)
    return mask > 0


# --- the folder --------------------------------------------------------------------------------


def test_lists_hold_exactly_the_faces_asked_for(root):
    assert [len(wflw.read_list(root, name)) for name in LISTS] == [TRAIN, TEST]


def test_pictures_can_be_read_and_are_of_the_sizes_promised(root):
    records = [record for name in LISTS for record in wflw.read_list(root, name)]
    images = [cv2.imread(path) for path in {record.image_path for record in records}]
    assert all(image is not None and max(image.shape) <= 512 for image in images)


def test_subset_lists_hold_the_test_faces_with_the_attribute(root):
    test = wflw.read_list(root, wflw.TEST_LIST)
    flags = np.array([record.attributes for record in test])
    for subset, flag in zip(wflw.SUBSETS, flags.T, strict=True):
        expected = [record.place for record, on in zip(test, flag, strict=True) if on]
        assert [record.place for record in wflw.read_subset(root, subset, test)] == expected
    assert flags.any(0).all()


def test_some_pictures_hold_several_faces_on_lines_of_their_own(root):
    records = wflw.read_list(root, wflw.TRAIN_LIST)
    assert len({record.image_name for record in records}) < len(records)


def test_settings_and_true_angles_are_written(root):
    content = json.loads((root / dataset.SETTINGS).read_text())
    assert content["settings"]["train"] == TRAIN
    assert content["settings"]["seed"] == SEED
    assert [len(content["yaw_pitch_roll"][split]) for split in ("train", "test")] == [TRAIN, TEST]
    for record, (yaw, pitch, roll) in zip(
        wflw.read_list(root, wflw.TEST_LIST), content["yaw_pitch_roll"]["test"], strict=True
    ):
        parameters = HeadParameters(yaw=yaw, pitch=pitch, roll=roll)
        assert record.attributes[0] == parameters.large_pose


def test_same_settings_give_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("one", 0), ("two", 2)):
        draw_dataset(tmp_path / name, train=5, test=2, seed=1, workers=workers)
    draw_dataset(tmp_path / "other", train=5, test=2, seed=2, workers=0)
    one, two, other = (_bytes(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    pictures = [name for name in one if name.endswith(".jpg")]
    assert pictures
    assert all(one[name] != other.get(name) for name in pictures)


def test_training_and_test_pictures_differ(root):
    digests = [data for name, data in _bytes(root).items() if name.endswith(".jpg")]
    assert len(set(digests)) == len(digests)


def test_a_stopped_drawing_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    settings = {"train": 40, "test": 2, "seed": 0, "workers": 0}
    monkeypatch.setattr(dataset, "draw_picture", _blank)
    draw_dataset(whole, **settings)
    drawn = []

    def fail(rng, max_faces):
        drawn.append(1)
        if len(drawn) == 30:
            raise RuntimeError("power cut")
        return _blank(rng, max_faces)

    monkeypatch.setattr(dataset, "draw_picture", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        draw_dataset(tmp_path / "faces", **settings)
    assert not (tmp_path / "faces").exists()
    draw_dataset(tmp_path / "faces", **settings)
    assert _bytes(tmp_path / "faces") == _bytes(whole)
    # The first chunk, which was complete, is not drawn again.
    pictures = sum(name.endswith(".jpg") for name in _bytes(whole))
    assert len(drawn) == 30 + pictures - 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "whole"]


def _blank(rng, max_faces) -> dataset.DrawnPicture:
    points = rng.uniform(0, 9, (98, 2)).astype(np.float32)
    box, seen = np.zeros(4, np.float32), np.ones(98, bool)
    face = dataset.DrawnFace(points, box, np.zeros(6, bool), seen, 0.0, 0.0, 0.0)
    return dataset.DrawnPicture(np.zeros((10, 10, 3), np.uint8), (face,) * max_faces)


def test_visibility_stands_beside_the_lists(root):
    for name in LISTS:
        lines = (root / wflw.VISIBILITY / Path(name).name).read_text().splitlines()
        seen = np.array([line.split() for line in lines]).astype(int)
        assert seen.shape == (len(wflw.read_list(root, name)), 98)
        assert 0.6 < seen.mean() < 0.98


def test_leftovers_of_a_killed_run_do_not_matter(tmp_path):
    (tmp_path / ".faces.0-1-2-3.partial" / wflw.IMAGES).mkdir(parents=True)
    draw_dataset(tmp_path / "faces", train=1, test=1, seed=0, workers=0)
    assert len(wflw.read_list(tmp_path / "faces", wflw.TEST_LIST)) == 1


def test_the_same_folder_is_reused_and_left_alone(root, monkeypatch):
    monkeypatch.setattr(dataset, "draw_picture", None)
    before = _bytes(root)
    draw_dataset(root, train=TRAIN, test=TEST, seed=SEED)
    assert _bytes(root) == before


def test_a_folder_of_other_settings_is_refused(root):
    with pytest.raises(InputError) as error:
        draw_dataset(root, train=TRAIN, test=TEST, seed=SEED + 1)
    for part in (str(root), f"'seed': {SEED}", f"'seed': {SEED + 1}", "another folder"):
        assert part in str(error.value)


@pytest.mark.parametrize(("name", "text"), [("notes.txt", "mine"), (dataset.SETTINGS, "[1]")])
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="something else"):
        draw_dataset(tmp_path, train=1, test=1, seed=0)
    assert _bytes(tmp_path) == {name: text.encode()}


def test_an_empty_folder_is_filled(tmp_path):
    draw_dataset(tmp_path, train=1, test=1, seed=0, workers=0)
    assert len(wflw.read_list(tmp_path, wflw.TRAIN_LIST)) == 1


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        draw_dataset(tmp_path / "faces", **({"train": 1, "test": 1, "seed": 0} | wrong))


# --- statistics --------------------------------------------------------------------------------


def test_rectangles_are_like_wflws(faces):
    boxes = np.array([face.box for face in faces])
    landmarks = np.array([face.landmarks for face in faces])
    low, high = landmarks.min(1), landmarks.max(1)
    above = (low - boxes[:, :2]) / (high - low)
    below = (boxes[:, 2:] - high) / (high - low)
    assert (boxes == np.round(boxes)).all()
    assert abs(above[:, 1].mean() - 0.29) < 0.05
    assert abs(above[:, 1].std() - 0.13) < 0.04
    for margin in (above[:, 0], below[:, 0], below[:, 1]):
        assert abs(margin.mean()) < 0.03
        assert abs(margin.std() - 0.06) < 0.02
    widths = boxes[:, 2] - boxes[:, 0]
    assert widths.min() >= 20
    assert widths.max() <= 220
    assert 85 < np.median(widths) < 112


def test_the_mean_shape_is_as_wrong_as_on_real_faces(faces):
    boxes = np.array([face.box for face in faces])[:, None]
    landmarks = np.array([face.landmarks for face in faces])
    size = boxes[..., 2:] - boxes[..., :2]
    mean = ((landmarks - boxes[..., :2]) / size)[::2].mean(0)
    errors = np.linalg.norm(boxes[..., :2] + mean * size - landmarks, axis=-1)[1::2].mean(1)
    outer, other = (landmarks[1::2, i] for i in OUTER_EYE_CORNERS)
    assert 0.20 < np.median(errors / np.linalg.norm(outer - other, axis=-1)) < 0.30


def test_shares_of_the_attributes_are_about_wflws(faces):
    flags = np.array([face.attributes for face in faces])
    shares = np.array([0.13, 0.13, 0.28, 0.08, 0.29, 0.31])
    assert (np.abs(flags.mean(0) - shares) < 0.12).all()
    assert 0.1 < (~flags.any(1)).mean() < 0.35


def test_attributes_follow_from_the_parameters():
    neutral = HeadParameters()
    assert not (neutral.large_pose)
    assert not (neutral.strong_expression)
    assert not (neutral.made_up)
    assert not neutral.light.unusual
    assert HeadParameters(yaw=-50).large_pose
    assert HeadParameters(roll=40).large_pose
    assert HeadParameters(eyes_open=0.1).strong_expression
    assert dataclasses.replace(neutral.light, exposure=0.3).unusual


def test_usual_light_is_not_called_unusual_and_nearly_all_other_light_is():
    lights = {
        share: [sample_light(np.random.default_rng(i), share) for i in range(200)]
        for share in (0, 1)
    }
    assert not any(light.unusual for light in lights[0])
    assert np.mean([light.unusual for light in lights[1]]) > 0.9


def test_occluders_cover_what_they_are_said_to_cover():
    covered = {
        name: render_head(HeadParameters(**change), 80).covered
        for name, change in {
            "nothing": {}, "dark": {"glasses": "dark"}, "scarf": {"scarf": 1.0},
            "fringe": {"hair": "fringe"},
        }.items()
    }  # fmt: skip
    assert covered["nothing"].sum() < 8
    assert covered["dark"][60:76].all()
    assert not covered["dark"][76:96].any()
    assert covered["scarf"][76:96].all()
    assert not covered["scarf"][60:76].any()
    assert not covered["fringe"][60:96].any()
    cheeks = [render_head(HeadParameters(hair="long", hair_sides=s), 80).covered for s in (0, 1)]
    assert cheeks[1][:33].sum() > cheeks[0][:33].sum() + 8
    assert not cheeks[1][60:96].any()


def test_the_far_side_of_a_turned_head_is_hidden():
    head = render_head(HeadParameters(yaw=80, hair="bald"), 80)
    # The image's right: the eye, and the corner of the mouth.
    assert head.turned_away[[71, 72, 73, 82]].all()
    assert not head.turned_away[[60, 61, 66, 76]].any()
    assert not render_head(HeadParameters(hair="bald"), 80).turned_away.any()


def test_points_outside_of_the_picture_are_not_visible():
    for i in range(40):
        picture = draw_picture(np.random.default_rng([5, i]))
        size = np.array(picture.image.shape[1::-1])
        for face in picture.faces:
            outside = ((face.landmarks < -0.5) | (face.landmarks > size - 0.5)).any(1)
            assert not (face.visible & outside).any()
            if outside.sum() > 5:
                return
    pytest.fail("no face lies partly outside")


def test_pictures_are_blurred_just_where_the_flag_says_so(drawn):
    for faces, ratios in drawn:
        assert [face.attributes[5] for face in faces] == [bool(ratios)] * len(faces)
    ratios = [ratio for _, ratios in drawn for ratio in ratios]
    assert ratios
    assert max(ratios) < 0.6


@pytest.mark.parametrize(
    ("exposure", "low", "high"), [(0.3, 10, 50), (1.0, 70, 150), (1.7, 170, 255)]
)
def test_exposure_darkens_and_brightens(exposure, low, high):
    picture = np.full((4, 4, 3), 110, np.uint8)
    assert low < camera.expose(picture, Light(exposure=exposure)).mean() < high


def test_sharpening_raises_steps_and_leaves_plains():
    picture = np.full((20, 20, 3), 80, np.uint8)
    picture[:, 10:] = 160
    sharp = camera.sharpen(picture, 0.8)
    assert (sharp[:, [0, -1]] == picture[:, [0, -1]]).all()
    assert (sharp[:, 9] < 70).all()
    assert (sharp[:, 10] > 170).all()


# --- the head ----------------------------------------------------------------------------------


def test_the_neutral_frontal_head_is_symmetric():
    head = render_head(HeadParameters(), 160)
    middle = (head.tile.shape[1] - 1) / 2
    mirrored = head.landmarks[MIRROR] * [-1, 1] + [2 * middle, 0]
    np.testing.assert_allclose(head.landmarks, mirrored, atol=1e-3)
    difference = np.abs(head.tile.astype(int) - head.tile[:, ::-1].astype(int))
    assert difference.mean() < 1.5
    assert (difference.max(-1) > 40).mean() < 0.02


def test_the_tile_is_as_wide_as_asked_and_scales_about_pixel_corners():
    small, large = (render_head(HeadParameters(yaw=20), width) for width in (60, 180))
    assert np.ptp(small.landmarks[:, 0]) == pytest.approx(60, rel=2e-3)
    # Both show the same square, of which (-0.5, -0.5) is the corner.
    size = np.array([head.tile.shape[1::-1] for head in (small, large)])
    relative = [(h.landmarks + 0.5) / s for h, s in zip((small, large), size, strict=True)]
    assert np.abs(relative[0] - relative[1]).max() < 0.008


@pytest.mark.parametrize(
    ("change", "axis", "sign"),
    [({"yaw": 30}, 0, 1), ({"yaw": -30}, 0, -1), ({"pitch": 20}, 1, -1), ({"pitch": -20}, 1, 1)],
)
def test_the_nose_turns_in_the_documented_direction(change, axis, sign):
    head = render_head(HeadParameters(**change), 100)
    eyes = head.landmarks[[60, 64, 68, 72]].mean(0)
    straight = render_head(HeadParameters(), 100)
    at_rest = straight.landmarks[54] - straight.landmarks[[60, 64, 68, 72]].mean(0)
    assert sign * ((head.landmarks[54] - eyes) - at_rest)[axis] > 6


def test_a_roll_turns_clockwise():
    marks = render_head(HeadParameters(roll=20), 100).landmarks
    assert marks[72, 1] > marks[60, 1] + 5


@pytest.mark.parametrize("yaw", [-55, -30, 30, 55])
def test_the_far_contour_lies_on_the_visible_outline(yaw):
    head = render_head(HeadParameters(yaw=yaw, hair="bald"), 150)
    last = -1 if yaw > 0 else 0
    gaps = []
    for x, y in head.landmarks[18:32] if yaw > 0 else head.landmarks[1:15]:
        outline = np.flatnonzero(head.tile[round(float(y)), :, 3] > 127)[last]
        gaps.append(abs(outline - x))
    # In a row of the nose, that may be the outline instead.
    assert np.median(gaps) < 3
    assert np.percentile(gaps, 80) < 6


@pytest.mark.parametrize("yaw", [-50, 0, 30])
def test_each_half_of_the_contour_is_spaced_evenly_as_seen(yaw):
    steps = np.hypot(*np.diff(posed_landmarks(HeadParameters(yaw=yaw))[:33], axis=0).T)
    for half in (steps[:16], steps[16:]):
        assert np.ptp(half) < 0.2 * half.mean()


@pytest.mark.parametrize("yaw", [-75, 40, 75])
def test_the_near_contour_passes_in_front_of_the_ear(yaw):
    p = HeadParameters(yaw=yaw)
    (ear,) = (project(layer.points) for layer in ear_layers(p, rotation(yaw, 0, 0), 60))
    near = posed_landmarks(p)[:17] if yaw > 0 else posed_landmarks(p)[32:15:-1]
    low, high = ear[..., 1].min(), ear[..., 1].max()
    beside = near[(near[:, 1] > low) & (near[:, 1] < high)]
    assert len(beside) > 2
    assert (np.sign(yaw) * (beside[:, 0] - ear[..., 0].mean()) > 0).all()


@pytest.mark.parametrize("yaw", [-60, 0, 30])
def test_landmarks_lie_on_the_head(yaw):
    head = render_head(HeadParameters(yaw=yaw, pitch=15, roll=-20), 100)
    column, row = np.round(head.landmarks).astype(int).T
    alpha = head.tile[..., 3]
    assert (cv2.dilate(alpha, np.ones((5, 5)))[row, column] > 127).all()


@pytest.mark.parametrize("gaze", [(0.0, 0.0), (0.8, 0.2), (-0.8, -0.3)])
def test_pupils_lie_on_the_dark_of_the_eyes(gaze):
    head = render_head(HeadParameters(gaze=gaze, eyes_open=1.2, iris=(100, 130, 160)), 200)
    for pupil, eye in ((96, slice(60, 68)), (97, slice(68, 76))):
        inside = head.tile[_inside(head.tile.shape, head.landmarks[eye])][:, :3].mean(-1)
        assert _pixel(head.tile, head.landmarks[pupil]).mean() < 60 < np.percentile(inside, 70)


@pytest.mark.parametrize("change", [{}, {"yaw": 25.0, "roll": 15.0}, {"smile": 0.6}])
def test_lip_landmarks_enclose_the_lips(change):
    head = render_head(HeadParameters(lip_colour=(200, 20, 60), lipstick=True, **change), 200)
    marks = head.landmarks
    red, green = (head.tile[..., c].astype(float) for c in (0, 1))
    redness = (red - green) / (red + 1)  # whatever the shading
    lips = _inside(redness.shape, marks[76:88], marks[88:96])
    grown = cv2.dilate(lips.astype(np.uint8), np.ones((9, 9))) > 0
    around = grown & ~(cv2.dilate(lips.astype(np.uint8), np.ones((5, 5))) > 0)
    outside = around & ~_inside(redness.shape, marks[76:88])
    is_red = redness > (np.median(redness[lips]) + np.median(redness[outside])) / 2
    assert np.median(redness[lips]) > 1.6 * np.median(redness[outside])
    assert is_red[lips].mean() > 0.9
    assert is_red[outside].mean() < 0.1


def _brightness(head, *points) -> float:
    """The mean about landmarks' middle, whatever the colour."""
    column, row = np.round(np.mean(points, axis=0)).astype(int)
    return float(head.tile[row - 2 : row + 3, column - 2 : column + 3, :3].mean())


def test_a_shadow_darkens_what_it_falls_on_and_nothing_else():
    plain, shaded = (
        render_head(HeadParameters(shadow=(strength, np.pi / 2, 0.0)), 120)
        for strength in (0.0, 0.6)
    )
    left, right = ((plain.landmarks[a], plain.landmarks[b]) for a, b in ((64, 76), (68, 82)))
    assert _brightness(shaded, *right) < 0.6 * _brightness(plain, *right)
    np.testing.assert_allclose(_brightness(shaded, *left), _brightness(plain, *left), rtol=0.02)


def test_a_neck_is_as_dark_as_its_chin_makes_it_and_a_collar_covers_it():
    def neck(**change) -> np.ndarray:
        head = render_head(HeadParameters(skin=(200, 160, 130), **change), 120)
        column, row = np.round(head.landmarks[16]).astype(int)
        return head.tile[row + 12 : row + 18, column - 3 : column + 4, :3].mean((0, 1))

    dark, bright = neck(chin_shadow=0.65), neck(chin_shadow=0.0)
    assert dark.mean() < 0.8 * bright.mean()
    for cover in ({"collar": 0.9}, {"shoulders": 1.4}):
        covered = neck(chin_shadow=0.0, cloth_colour=(20, 20, 160), **cover)
        assert covered[2] > 2 * covered[0]


def test_lapels_stand_beside_the_jaw_and_leave_the_face_free():
    """They give the pictures edges beside the contour that are none of the face's."""
    change = {"lapels": (0.8, 0.3, 0.3, 0.9), "lapel_colour": (20, 20, 200)}
    head = render_head(HeadParameters(**change), 120)
    blue = head.tile[..., 2].astype(int) > 2 * head.tile[..., 0].astype(int) + 20
    chin, (left, right) = head.landmarks[16], (head.landmarks[6], head.landmarks[26])
    rows, columns = np.nonzero(blue)
    assert columns.min() < left[0]
    assert columns.max() > right[0]
    assert rows.min() < chin[1]
    assert rows.min() > head.landmarks[57, 1]  # the nose
    assert not head.covered[33:].any()


def test_an_open_mouth_is_dark_inside_and_brows_darker_than_skin():
    head = render_head(HeadParameters(mouth_open=0.9), 200)
    marks, grey = head.landmarks, head.tile[..., :3].mean(-1)
    skin = grey[_inside(grey.shape, marks[[64, 68, 59, 55]])].mean()
    assert grey[_inside(grey.shape, marks[88:96])].mean() < 0.75 * skin
    for brow in (slice(33, 42), slice(42, 51)):
        assert grey[_inside(grey.shape, marks[brow])].mean() < 0.7 * skin


def test_brows_begin_below_their_upper_points_on_both_sides_alike():
    with_brows, without = (
        render_head(HeadParameters(brow_strength=strength), 200) for strength in (1.0, 0.0)
    )
    ink = np.abs(with_brows.tile[..., :3] - without.tile[..., :3].astype(float)).sum(-1)
    starts = []
    for points in (slice(34, 37), slice(43, 46)):
        for x, y in with_brows.landmarks[points]:
            column = ink[: round(y) + 8, round(x)]
            starts.append(np.flatnonzero(column > 0.5 * column.max())[0] - y)
    assert min(starts) > 1
    assert max(starts) < 5
    np.testing.assert_allclose(starts[:3], starts[:2:-1], atol=1)


def test_a_long_beard_reaches_below_the_chin_and_leaves_its_points():
    white = {"skin": (96, 62, 46), "hair_colour": (225, 222, 216), "hair": "bald", "beard": 0.9}
    short, long = (render_head(HeadParameters(beard_length=s, **white), 120) for s in (0.0, 0.4))
    np.testing.assert_allclose(
        long.landmarks - long.landmarks[16], short.landmarks - short.landmarks[16], atol=1e-3
    )
    below = [_brightness(head, head.landmarks[16] + [0, 8]) for head in (short, long)]
    assert below[1] > 1.5 * below[0]


EXTREMES = {
    "yaw": (-90, 90), "pitch": (-40, 40), "roll": (-90, 90), "chin": (1.2, 1.9),
    "jaw": (1.7, 2.9), "breadth": (0.8, 1.2), "eye_height": (0.05, 0.14), "eye_tilt": (-0.2, 0.3),
    "brow_y": (-0.32, -0.1), "nose_length": (0.35, 0.65), "nose_height": (0.2, 0.55),
    "mouth_y": (0.78, 1.1), "mouth_open": (0, 1.3), "smile": (-1.2, 1.1), "pucker": (0, 1),
    "eyes_open": (0, 1.6), "brow_raise": (-1, 1.2), "hair": ("bald", "ring", "fringe", "long"),
    "hairline": (-1.02, -0.1), "part": (-0.8, 0.8), "beard": (0, 0.9), "wrinkles": (0, 1),
    "beard_kind": ("full", "goatee", "moustache"), "beard_length": (0, 0.5), "strands": (0, 12),
    "eye_white": (0.4, 1), "glint": (0, 1), "sockets": (0, 0.7),
    "face_paint": ("none", "clown", "stripes", "half", "patches"),
    "glasses": ("none", "frame", "dark"), "lens": ((0.24, 0.15, 2), (0.42, 0.32, 4.4)),
    "headwear": ("none", *headwear.KINDS), "headwear_y": (-0.75, -0.36), "scarf": (0, 1.05),
    "mask": (False, True), "freckles": (0, 30), "hair_height": (0, 0.9), "hair_sides": (0, 1),
    "curl": (0, 1), "neck": (0.45, 1.1), "throat": (0, 0.5), "collar": (0, 0.05, 0.8),
    "flare": (0, 0.6), "shoulders": (0, 1), "ridge": (2, 4),
    "lapels": ((0, 0, 0, 0), (0.2, 0, 0.6, 0.1), (0.9, 0.5, 0, 1.5)),
    "neckline": (0, 0.5), "shadow": ((0.8, -3.1, -2), (0.8, 1.5, 0.2)), "crown": (1.3, 1.85),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_no_head_fails(seed):
    rng = np.random.default_rng(seed)
    change = {name: values[rng.integers(len(values))] for name, values in EXTREMES.items()}
    wobble = tuple(rng.choice([-0.15, 0.15], 4).tolist())
    p = HeadParameters(**change, wobble=wobble, texture=1.0, seed=seed)
    head = render_head(p, rng.uniform(8, 60))
    assert np.isfinite(head.landmarks).all()
    assert head.tile[..., 3].any()


def test_nothing_fails_at_the_edges_of_a_picture():
    """A seed in 20,000 put shoulders so low that one row of them was left."""
    head = render_head(HeadParameters(), 12)
    for i in range(400):
        rng = np.random.default_rng(i)
        height, width = rng.integers(1, 40, 2)
        image = scene.background(rng, int(height), int(width))
        place = rng.uniform(-20, 60, 2)
        p = HeadParameters(roll=rng.uniform(-90, 90))
        scene.draw_clothes(rng, image, place, rng.uniform(2, 40), p)
        scene.paste(image, head, *place.astype(int).tolist())
        points = head.landmarks + place.astype(np.float32)
        occluders.draw_occluder(rng, image, points, (200.0, 150.0, 120.0))
        image = camera.blur(rng, camera.expose(image, sample_light(rng)), rng.uniform(5, 220))
        assert image.shape == (height, width, 3)


def test_heads_differ():
    heads = [sample_head(np.random.default_rng(i)) for i in range(20)]
    level = rotation(0.0, 0.0, 0.0)
    marks = np.array([
        project(landmarks_in_space(Surface(dataclasses.replace(h, yaw=0.0, pitch=0.0)), level))
        for h in heads
    ])  # fmt: skip
    marks /= np.ptp(marks[..., 0], axis=1)[:, None, None]
    marks -= marks.mean(1, keepdims=True)
    assert marks.std(0)[33:].mean() > 0.01
    assert len({h.hair for h in heads}) >= 3
    assert len({h.skin for h in heads}) == 20


def test_a_link_to_another_folder_is_filled_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "draw_picture", _blank)
    (tmp_path / "faces").symlink_to(tmp_path / "disk", target_is_directory=True)
    draw_dataset(tmp_path / "faces", train=1, test=1, seed=0, workers=0)
    assert (tmp_path / "faces").is_symlink()
    assert (tmp_path / "disk" / dataset.SETTINGS).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "faces"}
