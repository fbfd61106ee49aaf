import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax import losses
from flm_jax.errors import InputError

WING = {"width": 5.0, "curvature": 0.5}


def wing(error, **constants):
    return float(losses.wing_loss(jnp.float32(error), jnp.float32(0), **(constants or WING)))


def test_wing_by_hand():
    assert wing(0.0) == 0
    assert wing(1.0) == pytest.approx(5 * np.log(1 + 1 / 0.5), rel=1e-6)
    assert wing(-1.0) == wing(1.0)
    assert wing(8.0) == pytest.approx(8 - (5 - 5 * np.log(1 + 5 / 0.5)), rel=1e-6)


def test_wing_with_the_papers_constants_by_hand():
    assert wing(4.0, width=10.0, curvature=2.0) == pytest.approx(10 * np.log(3), rel=1e-6)


def test_wing_is_continuous_at_the_joint():
    below, at, above = (wing(error) for error in (np.nextafter(np.float32(5), 0), 5.0, 5.00001))
    assert at == pytest.approx(5 * np.log(11), rel=1e-6)
    assert below == pytest.approx(at, rel=1e-6)
    assert above == pytest.approx(at, rel=1e-5)


@pytest.mark.parametrize("error", [0.0, 1e-30, 5.0, -5.0, 1e30])
def test_wing_has_a_finite_gradient_everywhere(error):
    gradient = jax.grad(lambda x: losses.wing_loss(x, jnp.float32(0), **WING))(jnp.float32(error))
    assert np.isfinite(gradient)
    assert np.sign(gradient) == np.sign(error)


def test_wing_gradient_is_steep_near_zero_and_one_far_out():
    gradient = jax.grad(lambda x: losses.wing_loss(x, jnp.float32(0), **WING))
    assert gradient(jnp.float32(1e-6)) == pytest.approx(10, rel=1e-3)  # width / curvature
    assert gradient(jnp.float32(20)) == 1


def test_face_loss_means_the_same_at_every_image_size():
    rng = np.random.default_rng(0)
    predictions, targets = jnp.asarray(rng.uniform(0, 224, (2, 3, 98, 2)), jnp.float32)
    whole = losses.make_face_loss("wing", reference_size=224, image_size=224, **WING)
    small = losses.make_face_loss("wing", reference_size=224, image_size=64, **WING)
    assert whole(predictions, targets).shape == (3,)
    np.testing.assert_allclose(
        small(predictions * 64 / 224, targets * 64 / 224), whole(predictions, targets), rtol=1e-5
    )
    expected = losses.wing_loss(predictions, targets, **WING).mean(axis=(1, 2))
    np.testing.assert_allclose(whole(predictions, targets), expected, rtol=1e-6)


def test_an_unknown_loss_is_named():
    with pytest.raises(InputError, match="loss.name=wingg: expected one of wing"):
        losses.make_face_loss("wingg", reference_size=224, image_size=224)


def test_an_unknown_constant_is_named():
    with pytest.raises(InputError, match=r"config\.loss: .*'curvature'"):
        losses.make_face_loss("wing", reference_size=224, image_size=224, width=5.0, bend=1.0)
