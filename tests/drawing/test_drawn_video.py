import cv2
import numpy as np
import pytest

from flm_jax.drawing import video
from flm_jax.errors import InputError


def frames(path):
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield read[1]


def test_a_still_face_differs_by_noise_alone(tmp_path):
    landmarks = video.draw_video(tmp_path / "a.avi", frames=3, still=True)
    assert (landmarks == landmarks[0]).all()
    first, second, third = (image.astype(float) for image in frames(tmp_path / "a.avi"))
    assert 1 < np.abs(first - second).mean() < 12
    assert abs((first - third).mean()) < 0.5


def test_a_turning_face_moves_and_keeps_its_size(tmp_path):
    landmarks = video.draw_video(tmp_path / "a.avi", frames=26)
    assert len(list(frames(tmp_path / "a.avi"))) == len(landmarks) == 26
    heights = np.ptp(landmarks[..., 1], axis=1)
    assert np.ptp(heights) < 0.1 * heights.mean()
    # By the end of the first second the head is turned to the picture's right.
    nose = landmarks[:, 54, 0] - landmarks[:, [60, 72], 0].mean(axis=1)
    assert nose[25] > nose[0] + 10


def test_a_name_that_is_no_video_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a name that ends in .avi"):
        video.draw_video(tmp_path / "nowhere" / "a.avi", frames=1)
