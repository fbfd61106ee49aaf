import numpy as np

from flm_jax.inference import overlay
from flm_jax.inference.head_pose import estimate_pose
from flm_jax.inference.outputs import Face
from flm_jax.landmarks import PARTS


def face_of(record, shift=0.0):
    points = record.landmarks + np.float32(shift)
    return Face(record.box, 0.9, points, None, estimate_pose(points))


def test_points_have_the_colour_of_their_part(test_records):
    record = test_records[0]
    face = face_of(record)
    face = face._replace(landmarks=4 * face.landmarks, box=4 * face.box)
    image = np.full((4 * 600, 4 * 600, 3), 128, np.uint8)
    overlay.draw_face(image, face)
    for part in PARTS:
        if part.group in ("contour", "pupils"):  # No axis runs over these.
            x, y = np.round(face.landmarks[part.indices[len(part.indices) // 2]]).astype(int)
            if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
                expected = 255 * np.array(part.colour[::-1])
                np.testing.assert_allclose(image[y, x], expected, atol=40)


def test_points_far_outside_of_the_picture_do_no_harm(test_records):
    image = np.zeros((50, 60, 3), np.uint8)
    overlay.draw_face(image, face_of(test_records[0], shift=1e10))
    overlay.draw_face(image, face_of(test_records[0], shift=-1e3))
    huge = face_of(test_records[0])._replace(box=np.array([-1e12, 0, 1e12, 1e12]))
    overlay.draw_face(image, huge)


def test_points_that_coincide_are_drawn_without_axes(test_records):
    image = np.zeros((50, 60, 3), np.uint8)
    face = face_of(test_records[0])._replace(landmarks=np.full((98, 2), 20, np.float32))
    overlay.draw_face(image, face)
    assert image.any()
