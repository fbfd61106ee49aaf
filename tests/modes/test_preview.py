import numpy as np
from PIL import Image
from support.networks import make_config

from flm_jax.config import build
from flm_jax.evaluation import plots
from flm_jax.modes import preview


def test_the_sheet_shows_what_the_training_loader_yields(faces_root, tmp_path, monkeypatch):
    config = make_config(faces_root)
    config.data.augmentation.hflip.probability = 0.5
    config.data.augmentation.rotation.probability = 1.0
    seen = []
    draw = plots.draw_faces
    monkeypatch.setattr(
        plots, "draw_faces", lambda path, *faces: (seen.append(faces), draw(path, *faces))
    )
    preview.run(config, tmp_path)
    records = build.read_splits(config, tmp_path).training
    batches = list(build.training_batches(config, records, 0))[:6]
    images, landmarks, titles = seen[0]
    expected = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_allclose(np.stack(images) / 127.5 - 1, expected, atol=1e-5)
    np.testing.assert_array_equal(
        landmarks, np.concatenate([batch["landmarks"] for batch in batches])
    )
    assert titles[3] == f"line {records[batches[0]['index'][3]].line}"
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    with Image.open(tmp_path / "preview.png") as sheet:
        assert sheet.size[0] > 1000
