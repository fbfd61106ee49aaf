"""Augmentation: points stay on what they mark, draws are bounded, and a seed decides all."""

import copy
import itertools

import cv2
import numpy as np
import pytest
from support.faces import OFF, blob_position

from flm_jax import geometry
from flm_jax.data import augmentation, loader, sampler
from flm_jax.data.crop import crop_box, crop_image, crop_map
from flm_jax.errors import InputError
from flm_jax.landmarks import MIRROR

BOX = np.array([150, 100, 250, 240], np.float32)
CROP = {"margin": 10.0, "factor": 1.0, "square": False}
SQUARE = {"margin": 0.0, "factor": 1.2, "square": True}
GEOMETRIC = ("hflip", "rotation", "scale", "shift", "aspect", "box_noise")
STRONG = {"rotation": 45.0, "scale": 0.2, "shift": 0.1, "aspect": 0.2, "box_noise": 0.1}
PHOTOMETRIC = [name for name in OFF if name not in GEOMETRIC]


def settings(*names, probability=1.0, **ranges):
    """These augmentations at this probability, the others off; `rotation=45.0` sets a range."""
    result = copy.deepcopy(OFF)
    for name in names:
        result[name]["probability"] = probability
    for name, value in ranges.items():
        result[name][augmentation.SETTINGS[name][0]] = value
    return result


def generator(seed=0):
    return np.random.default_rng(seed)


def no_other(rng):
    raise AssertionError("no other image is needed")


def draw_cross(image, point):
    """A cross of two lines whose centre of mass is the point, a whole pixel."""
    x, y = point
    cv2.line(image, (x - 6, y), (x + 6, y), (255, 255, 255), 2)
    cv2.line(image, (x, y - 6), (x, y + 6), (255, 255, 255), 2)


@pytest.mark.parametrize("names", [*[(name,) for name in GEOMETRIC], GEOMETRIC], ids="-".join)
def test_a_cross_arrives_at_its_landmark(names):
    image = np.zeros((400, 420, 3), np.uint8)
    draw_cross(image, (212, 151))
    centre = blob_position(image)
    for seed, crop in itertools.product(range(8), [CROP, SQUARE]):
        chosen = settings(*names, **STRONG)
        found = augmentation.random_crop_map(generator(seed), BOX, 160, crop, chosen)
        assert not np.allclose(crop_map(BOX, 160, **crop), found)
        expected = geometry.apply(found, centre[None])[0]
        assert (np.abs(expected - 80) < 60).all(), "the cross has left the crop"
        crop_pixels = crop_image(image, geometry.invert(found), 160)
        np.testing.assert_allclose(blob_position(crop_pixels), expected, atol=0.5)


@pytest.mark.parametrize("crop", [CROP, SQUARE])
def test_each_range_means_what_it_says(crop):
    plain = crop_map(BOX, 100, **crop)

    def draws(name):
        """What the map does to the crop, u -> u, over many draws."""
        chosen = settings(name, **STRONG)
        maps = [
            augmentation.random_crop_map(generator(seed), BOX, 100, crop, chosen)
            for seed in range(300)
        ]
        return geometry.compose(np.stack(maps), geometry.invert(plain))

    shifts = draws("shift")[..., 2]
    assert np.abs(shifts).max() <= 2 * 0.1 * 100
    assert np.abs(shifts.mean(axis=0)).max() < 2
    np.testing.assert_allclose(shifts.std(axis=0), 0.88 * 10, rtol=0.15)  # cut at two stds
    factors = np.log(draws("scale")[:, 0, 0])
    assert 0.35 < np.abs(factors).max() <= 2 * 0.2
    changes = draws("aspect")
    assert np.abs(np.log(changes[:, 0, 0] / changes[:, 1, 1])).max() <= 2 * 0.2
    np.testing.assert_allclose(changes[:, 0, 0] * changes[:, 1, 1], 1)
    np.testing.assert_allclose(draws("hflip"), np.stack(300 * [geometry.flip(100)]), atol=1e-9)


def test_a_rotation_turns_the_image_as_a_whole():
    """Before a stretched crop deforms it; positive angles turn clockwise."""
    stretch = crop_map(BOX, 100, **CROP)
    angles = []
    for seed in range(200):
        found = augmentation.random_crop_map(
            generator(seed), BOX, 100, CROP, settings("rotation", rotation=20.0)
        )
        turn = geometry.compose(geometry.invert(stretch), found)
        np.testing.assert_allclose(turn[:, :2] @ turn[:, :2].T, np.eye(2), atol=1e-9)
        np.testing.assert_allclose(geometry.apply(turn, np.array([[200.0, 170.0]])), [[200, 170]])
        angles.append(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))
    assert 30 < np.abs(angles).max() <= 40
    np.testing.assert_allclose(np.std(angles), 0.88 * 20, rtol=0.15)


@pytest.mark.parametrize("crop", [CROP, SQUARE])
@pytest.mark.parametrize("names", [*[(name,) for name in GEOMETRIC], GEOMETRIC], ids="-".join)
def test_no_draw_looks_beyond_the_reach(names, crop):
    chosen = settings(*names, **STRONG)
    plain = crop_box(BOX, **crop)
    middle, half = (plain[:2] + plain[2:]) / 2, (plain[2:] - plain[:2]).max() / 2
    corners = np.array([[0, 0], [64, 0], [0, 64], [64, 64]]) - 0.5
    furthest = 0.0
    for seed in range(300):
        found = augmentation.random_crop_map(generator(seed), BOX, 64, crop, chosen)
        looked_at = geometry.apply(geometry.invert(found), corners)
        furthest = max(furthest, np.abs(looked_at - middle).max() / half)
    reach = augmentation.largest_reach(chosen)
    assert furthest <= reach + 1e-6
    if len(names) == 1:
        assert furthest > 0.65 * reach, "a bound so loose wastes memory"
    assert augmentation.largest_reach(OFF) == 1


def read_epochs(records, chosen, seed=1, **changes):
    order = sampler.TrainingSampler(len(records), batch_size=8, num_epochs=2, seed=seed)
    options = {"num_workers": 0, "num_threads": 2, "augmentation": chosen, **changes}
    return list(
        loader.batches(order, records, image_size=32, box="rectangle", crop=SQUARE, **options)
    )


def images_by_row(batches):
    return {
        row: image
        for batch in batches
        for row, image in zip(batch["index"], batch["image"], strict=True)
    }


def test_the_loaders_flipped_faces_are_flipped_images(train_records):
    plain = read_epochs(train_records, None)[0]
    flipped = read_epochs(train_records, settings("hflip"))[0]
    # OpenCV interpolates at 32nds of a pixel, rounded the other way in the flipped image.
    assert np.abs(flipped["image"] - plain["image"][:, :, ::-1]).mean() < 0.005
    expected = plain["landmarks"] * [-1, 1] + [31, 0]
    np.testing.assert_allclose(flipped["landmarks"], expected[:, MIRROR], atol=1e-3)


def test_landmarks_go_home_from_an_augmented_crop(train_records):
    batch = read_epochs(train_records, settings(*GEOMETRIC, probability=0.5))[0]
    home = geometry.apply(batch["image_from_crop"], batch["landmarks"])
    flipped = geometry.flips(batch["image_from_crop"])
    assert 0 < flipped.sum() < 8
    home[flipped] = home[flipped][:, MIRROR]
    truth = np.stack([train_records[row].landmarks for row in batch["index"]])
    np.testing.assert_allclose(home, truth, atol=1e-2)


def test_the_seed_the_epoch_and_the_face_decide_everything(train_records):
    everything = settings(*OFF, probability=0.5)
    whole = read_epochs(train_records, everything)
    for start, again in (
        (0, read_epochs(train_records, everything, num_threads=1)),
        (7, read_epochs(train_records, everything, start=7)),
    ):
        for first, second in zip(whole[start:], again, strict=True):
            for name in first:
                np.testing.assert_array_equal(first[name], second[name])
    # The same face in the first and the second epoch, and in the first with another seed.
    first, second = images_by_row(whole[:6]), images_by_row(whole[6:])
    reseeded = images_by_row(read_epochs(train_records, everything, seed=2)[:6])
    for row in set(first) & set(second) & set(reseeded):
        assert (first[row] != second[row]).any()
        assert (first[row] != reseeded[row]).any()


def face(size=96):
    """RGB with edges, colour and texture."""
    image = np.random.default_rng(5).integers(60, 200, (size, size, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    cv2.circle(image, (size // 2, size // 2), size // 4, (80, 120, 200), -1)
    return image


# Of `face`: on a circle around it.
POINTS = np.float32(47.5 + 20 * np.array([np.sin(np.arange(98)), np.cos(np.arange(98))]).T)


def distorted(name, seed=0, image=None, other=no_other, **ranges):
    image = face() if image is None else image
    before = image.copy()
    chosen = settings(name, **ranges)
    result, _ = augmentation.distort(generator(seed), image, POINTS, chosen, other)
    np.testing.assert_array_equal(image, before)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    return result


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_each_distortion_changes_pixels_and_only_where_it_is_on(name):
    def other(rng):
        return 255 - face()

    assert any((distorted(name, seed, other=other) != face()).any() for seed in range(5))
    off = settings(name, probability=0.0)
    after, covers = augmentation.distort(generator(), face(), POINTS, off, no_other)
    np.testing.assert_array_equal(after, face())
    assert covers == []


def test_other_surroundings_leave_the_face_as_it_is():
    before = face()
    distance = np.hypot(*(np.indices(before.shape[:2]) - 47.5))
    for seed in range(10):
        after = distorted("surroundings", seed, other=lambda rng: 255 - face(), surroundings=0.2)
        np.testing.assert_array_equal(after[distance < 19.5], before[distance < 19.5])
        far = distance > 20 + (0.2 + 0.1) * 40 + 20  # the forehead that it adds reaches as far
        np.testing.assert_array_equal(after[far], 255 - before[far])


@pytest.mark.parametrize("name", ["blur", "resolution", "jpeg"])
def test_no_distortion_moves_a_point(name):
    image = np.zeros((96, 96, 3), np.uint8)
    draw_cross(image, (40, 57))
    before = blob_position(image)
    for seed in range(10):
        # The traces of JPEG far from the cross weigh on its centre of mass.
        after = distorted(name, seed, image=image)
        after = np.where(after > 60, after, 0)
        np.testing.assert_allclose(blob_position(after), before, atol=0.25)


def test_light_is_monotone_and_the_same_in_every_channel():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    ramp = np.ascontiguousarray(np.broadcast_to(ramp, (256, 256, 3)))
    for name in ("brightness", "contrast", "gamma"):
        for seed in range(10):
            changed = distorted(name, seed, image=ramp).astype(int)
            assert (np.diff(changed[:, 0, 0]) >= 0).all()
            assert (changed == changed[:, :1, :1]).all()
    steps = [
        np.abs(distorted("brightness", seed, image=ramp).astype(int) - ramp).max()
        for seed in range(50)
    ]
    assert 45 < max(steps) <= 51  # a fifth of white


def test_grey_and_jpeg_take_red_for_red():
    for channel, grey in enumerate((76, 150, 29)):  # ITU-R BT.601
        crop = np.zeros((8, 8, 3), np.uint8)
        crop[..., channel] = 255
        assert (distorted("grey", image=crop) == grey).all()
    _, content = cv2.imencode(".jpg", face()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    expected = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(distorted("jpeg", jpeg=95), expected)


@pytest.mark.parametrize("name", ["erase_flat", "erase_noise", "paste"])
def test_a_patch_covers_one_bounded_rectangle(name):
    image = np.zeros((96, 96, 3), np.uint8)
    areas = []

    def other(rng):
        return np.full((96, 96, 3), 7, np.uint8)

    for seed in range(60):
        covered = distorted(name, seed, image=image, other=other).any(axis=2)
        if not covered.any():
            continue  # a black patch
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert max(height, width) <= round(0.4 * 96)
        assert covered.sum() >= 0.99 * height * width
        areas.append(height * width)
    assert max(areas) > 0.08 * 96 * 96


def change(name, **values):
    result = copy.deepcopy(OFF)
    result[name] |= values
    return result


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("hflip", probability=1.5), r"augmentation.hflip.probability=1.5: .* from 0 to 1"),
        (change("rotation", std=-1.0), r"rotation.std=-1.0: expected a number from 0 to 90"),
        (change("box_noise", std=0.5), r"box_noise.std=0.5: expected a number from 0 to 0.2"),
        (change("blur", sigma=1.0), r"augmentation.blur has the keys .*'sigma'"),
        ({**OFF, "tilt": {"probability": 0.0}}, r"unknown keys \['tilt'\]"),
        ({k: v for k, v in OFF.items() if k != "jpeg"}, "lacks the key 'jpeg'"),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    augmentation.check(OFF)
    with pytest.raises(InputError, match=message):
        augmentation.check(wrong)
