"""Elementwise losses of coordinates in pixels, and the loss of a face made from them."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from flm_jax.errors import InputError, check_keywords

FaceLoss = Callable[[Float[Array, "b 98 2"], Float[Array, "b 98 2"]], Float[Array, " b"]]


def wing_loss(
    predictions: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    *,
    width: float,
    curvature: float,
) -> Float[Array, "*shape"]:
    """Wing loss: logarithmic for small errors, the absolute error minus a constant for large ones.

    Feng et al., "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural
    Networks", CVPR 2018, eq. 5; there with width 10 and curvature 2.

    Args:
        predictions: any shape.
        targets: the same shape and unit.
        width: the error at which the two pieces meet (w), in the unit of the coordinates.
        curvature: bends the logarithmic piece (epsilon): the smaller, the steeper at 0.

    Returns:
        The loss of every element. Its gradient at 0 is 0.
    """
    difference = predictions - targets
    # The absolute value; jnp.abs has the gradient 1 at 0, where the loss has its minimum.
    error = jnp.sign(difference) * difference
    # w ln(1 + |x| / eps) for |x| < w, else |x| - C, with C such that the pieces meet
    inside = width * jnp.log1p(error / curvature)
    outside = error - width + width * jnp.log1p(width / curvature)
    return jnp.where(error < width, inside, outside)


def make_face_loss(
    name: str, *, reference_size: int, image_size: int, **hyperparameters: float
) -> FaceLoss:
    """The mean over a face's coordinates, in pixels of a reference crop.

    Args:
        name: `wing`.
        reference_size: the side of the crop whose pixels the loss is taken in, so that its
            hyperparameters mean the same at every input size.
        image_size: the side of the network's input, in whose pixels the coordinates are.
        **hyperparameters: of the elementwise loss.

    Returns:
        A function of predictions and targets, f32[b, 98, 2] -> f32[b].
    """
    losses: dict[str, Callable[..., Array]] = {"wing": wing_loss}
    if name not in losses:
        raise InputError(f"loss.name={name}: expected one of {', '.join(losses)}")
    check_keywords("loss", losses[name], 0, 0, **hyperparameters)
    for key, value in {"reference_size": reference_size, **hyperparameters}.items():
        if not value > 0:
            raise InputError(f"loss.{key}={value}: expected a positive number")
    elementwise = partial(losses[name], **hyperparameters)
    scale = reference_size / image_size

    def face_loss(predictions, targets):
        return elementwise(scale * predictions, scale * targets).mean(axis=(1, 2))

    return face_loss
