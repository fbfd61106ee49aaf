import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.errors import InputError
from flm_jax.training import losses

WING = {"width": 5.0, "curvature": 0.5}


def wing(error, **constants):
    return float(losses.wing_loss(jnp.float32(error), jnp.float32(0), **(constants or WING)))


def test_wing_by_hand():
    assert wing(0.0) == 0
    assert wing(1.0) == pytest.approx(5 * np.log(1 + 1 / 0.5), rel=1e-6)
    assert wing(-1.0) == wing(1.0)
    assert wing(8.0) == pytest.approx(8 - (5 - 5 * np.log(1 + 5 / 0.5)), rel=1e-6)


def test_wing_gradient_is_steep_near_zero_and_one_far_out():
    gradient = jax.grad(lambda x: losses.wing_loss(x, jnp.float32(0), **WING))
    assert gradient(jnp.float32(1e-6)) == pytest.approx(10, rel=1e-3)  # width / curvature
    assert gradient(jnp.float32(20)) == 1


def test_face_loss_means_the_same_at_every_image_size():
    rng = np.random.default_rng(0)
    predictions, targets = jnp.asarray(rng.uniform(0, 224, (2, 3, 98, 2)), jnp.float32)
    whole = losses.make_face_loss("wing", reference_size=224, image_size=224, **WING)
    small = losses.make_face_loss("wing", reference_size=224, image_size=64, **WING)
    found = whole({"landmarks": predictions}, {"landmarks": targets})
    expected = losses.wing_loss(predictions, targets, **WING).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    reduced = small({"landmarks": predictions * 64 / 224}, {"landmarks": targets * 64 / 224})
    np.testing.assert_allclose(reduced, found, rtol=1e-5)


def test_an_unknown_loss_is_named():
    with pytest.raises(InputError, match="loss.name=wingg: expected one of wing, soft_wing"):
        losses.make_face_loss("wingg", reference_size=224, image_size=224)


def test_an_unknown_constant_is_named():
    with pytest.raises(InputError, match=r"config\.loss: .*'curvature'"):
        losses.make_face_loss("wing", reference_size=224, image_size=224, width=5.0, bend=1.0)


def value(loss, error, **constants):
    return float(loss(jnp.float32(error), jnp.float32(0), **constants))


SOFT = {"inner": 2.0, "width": 20.0, "curvature": 0.5}
RECTIFIED = {"rectified": 0.5, "width": 10.0, "curvature": 2.0}


def test_soft_wing_by_hand():
    assert value(losses.soft_wing_loss, -1.5, **SOFT) == 1.5
    # 20 ln(1 + 7 / 0.5) + 2 - 20 ln(1 + 2 / 0.5) = 2 + 20 ln(15 / 5)
    assert value(losses.soft_wing_loss, 7.0, **SOFT) == pytest.approx(2 + 20 * np.log(3))


def test_rectified_wing_by_hand():
    assert value(losses.rectified_wing_loss, 0.4, **RECTIFIED) == 0
    assert value(losses.rectified_wing_loss, -4.5, **RECTIFIED) == pytest.approx(10 * np.log(3))
    constant = 10 - 10 * np.log(1 + 9.5 / 2)
    assert value(losses.rectified_wing_loss, 13.0, **RECTIFIED) == pytest.approx(13 - constant)


def test_l1_and_optax_smooth_l1_by_hand():
    assert value(losses.l1_loss, -3.0) == 3
    smooth = losses.make_face_loss("smooth_l1", reference_size=1, image_size=1, delta=2.0)
    face = jnp.zeros((1, 98, 2))
    batch = {"landmarks": face}
    assert float(smooth({"landmarks": face + 1}, batch)[0]) == pytest.approx(0.5)
    assert float(smooth({"landmarks": face + 5}, batch)[0]) == pytest.approx(2 * (5 - 1))


@pytest.mark.parametrize(
    ("loss", "constants", "joints"),
    [
        (losses.wing_loss, WING, [5.0]),
        (losses.soft_wing_loss, SOFT, [2.0]),
        (losses.rectified_wing_loss, RECTIFIED, [0.5, 10.0]),
        (losses.l1_loss, {}, [1.0]),
    ],
)
def test_losses_are_continuous_grow_with_the_error_and_have_finite_gradients(
    loss, constants, joints
):
    for joint in joints:
        below, above = (value(loss, joint * (1 + sign * 1e-6), **constants) for sign in (-1, 1))
        assert below == pytest.approx(above, rel=1e-4, abs=1e-4)
    errors = jnp.linspace(0, 50, 501)
    values = loss(errors, jnp.zeros(501), **constants)
    assert (jnp.diff(values) >= 0).all()
    np.testing.assert_allclose(loss(-errors, jnp.zeros(501), **constants), values)
    gradient = jax.grad(lambda x: loss(x, jnp.float32(0), **constants))
    assert gradient(jnp.float32(0)) == 0
    for error in (1e-30, 1e30, *joints):
        assert np.isfinite(gradient(jnp.float32(error)))
        assert np.isfinite(gradient(jnp.float32(-error)))


def test_laplace_by_hand():
    loss = losses.laplace_loss(jnp.float32(3), jnp.float32(0), jnp.float32(2))
    assert float(loss) == pytest.approx(1.5 + np.log(4))


def test_laplace_integrates_to_one():
    errors = jnp.linspace(-60, 60, 120_001)
    density = jnp.exp(-losses.laplace_loss(errors, jnp.zeros_like(errors), jnp.float32(3)))
    assert float(jnp.trapezoid(density, errors)) == pytest.approx(1, rel=1e-3)


def test_the_laplace_face_loss_takes_scales_in_pixels_of_the_image():
    rng = np.random.default_rng(0)
    points, targets = jnp.asarray(rng.uniform(0, 64, (2, 3, 98, 2)), jnp.float32)
    scales = jnp.asarray(rng.uniform(1, 5, (3, 98)), jnp.float32)
    loss = losses.make_face_loss(
        "laplace", reference_size=224, image_size=64, head_outputs=("scale",)
    )
    found = loss({"landmarks": points, "scale": scales}, {"landmarks": targets})
    b = 3.5 * scales[..., None]
    expected = (3.5 * jnp.abs(points - targets) / b + jnp.log(2 * b)).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_rectified_wing_without_a_wing_is_refused():
    with pytest.raises(InputError, match="loss.rectified=10.0: expected less than loss.width"):
        losses.make_face_loss(
            "rectified_wing", reference_size=224, image_size=64, **{**RECTIFIED, "rectified": 10.0}
        )


@pytest.mark.parametrize(("name", "outputs"), [("laplace", ()), ("l1", ("scale",))])
def test_a_loss_that_does_not_fit_the_head_is_refused(name, outputs):
    with pytest.raises(InputError, match=f"loss.name={name} takes .*, but the head predicts"):
        losses.make_face_loss(name, reference_size=224, image_size=64, head_outputs=outputs)
