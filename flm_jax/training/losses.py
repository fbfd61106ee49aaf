"""Elementwise losses of coordinates in pixels, and the loss of a face made from them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from flm_jax.errors import InputError, check_keywords

# The network's outputs and the batch, whose landmarks are in pixels of its input -> f32[b].
FaceLoss = Callable[[Mapping[str, Array], Mapping[str, Array]], Float[Array, " b"]]


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
    error = l1_loss(predictions, targets)
    # w ln(1 + |x| / eps) for |x| < w, else |x| - C, with C such that the pieces meet
    inside = width * jnp.log1p(error / curvature)
    outside = error - width + width * jnp.log1p(width / curvature)
    return jnp.where(error < width, inside, outside)


def soft_wing_loss(
    predictions: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    *,
    inner: float,
    width: float,
    curvature: float,
) -> Float[Array, "*shape"]:
    """Soft Wing loss: the absolute error while it is small, logarithmic beyond.

    Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", IEEE TIP 2021,
    there with inner 2, width 20 and curvature 0.5. Coordinates of a unit square stay inside: there
    it is the L1 loss.

    Args:
        predictions: any shape.
        targets: the same shape and unit.
        inner: the error at which the two pieces meet (omega_1).
        width: the weight of the logarithm (omega_2).
        curvature: bends the logarithm (epsilon).
    """
    error = l1_loss(predictions, targets)
    # |x| for |x| < w1, else w2 ln(1 + |x| / eps) + B, with B such that the pieces meet
    outside = inner + width * (jnp.log1p(error / curvature) - jnp.log1p(inner / curvature))
    return jnp.where(error < inner, error, outside)


def rectified_wing_loss(
    predictions: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    *,
    rectified: float,
    width: float,
    curvature: float,
) -> Float[Array, "*shape"]:
    """Rectified Wing loss: Wing loss that ignores errors as small as those of the labels.

    Feng et al., "Rectified Wing Loss for Efficient and Robust Facial Landmark Localisation with
    Convolutional Neural Networks", IJCV 2020, there with rectified 0.5, width 10 and curvature 2.

    Args:
        predictions: any shape.
        targets: the same shape and unit.
        rectified: the error below which the loss is 0 (r), smaller than `width`.
        width: the error at which the logarithmic piece ends (w).
        curvature: bends it (epsilon).
    """
    if rectified >= width:
        raise InputError(f"loss.rectified={rectified}: expected less than loss.width={width}")
    error = l1_loss(predictions, targets)
    # 0 for |x| < r, w ln(1 + (|x| - r) / eps) for |x| < w, else |x| - C
    inside = width * jnp.log1p(jnp.maximum(error - rectified, 0) / curvature)
    outside = error - width + width * jnp.log1p((width - rectified) / curvature)
    return jnp.where(error < width, inside, outside)


def l1_loss(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The absolute error, with the gradient 0 at 0, where jnp.abs has 1."""
    difference = predictions - targets
    return jnp.sign(difference) * difference


def laplace_loss(
    predictions: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    scale: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """Negative log-likelihood of a Laplace distribution around the prediction.

    As Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer
    Vision?", NeurIPS 2017, eq. 5, with a Laplace distribution for their Gaussian. It is least
    where the scale is the mean absolute error, so a trained scale is the error to expect.

    Args:
        predictions: any shape.
        targets: the same shape and unit.
        scale: of the distribution (b), positive, in the same unit.
    """
    # |x| / b + ln(2 b)
    return l1_loss(predictions, targets) / scale + jnp.log(2 * scale)


# Elementwise: predictions, targets -> losses, with keyword hyperparameters. A loss that needs more
# of what the head predicts takes it as a third argument of that name, as `laplace_loss` takes
# `scale`.
LOSSES: dict[str, Callable[..., Array]] = {
    "wing": wing_loss,
    "soft_wing": soft_wing_loss,
    "rectified_wing": rectified_wing_loss,
    "l1": l1_loss,
    "smooth_l1": optax.losses.huber_loss,  # which is delta times it
    "laplace": laplace_loss,
}


def make_face_loss(
    name: str,
    *,
    reference_size: float,
    image_size: int,
    head_outputs: Sequence[str] = (),
    **hyperparameters: float,
) -> FaceLoss:
    """The mean over a face's coordinates, in pixels of a reference crop.

    Args:
        name: one of `LOSSES`.
        reference_size: the side of the crop whose pixels the loss is taken in, so that its
            hyperparameters mean the same at every input size. With 1 the targets are normalised to
            the unit square.
        image_size: the side of the network's input, in whose pixels the coordinates are.
        head_outputs: what the head predicts for the loss alone, in pixels: `Head.loss_inputs`.
        **hyperparameters: of the elementwise loss.

    Returns:
        A function of the network's outputs and the batch -> f32[b].

    Raises:
        InputError: no such loss or hyperparameter, or a loss that does not fit the head.
    """
    if name not in LOSSES:
        raise InputError(f"loss.name={name}: expected one of {', '.join(LOSSES)}")
    extras = _extra_arguments(LOSSES[name])
    if extras != tuple(head_outputs):
        raise InputError(
            f"loss.name={name} takes {' and '.join(extras) or 'points alone'}, but the head "
            f"predicts {' and '.join(head_outputs) or 'points alone'}: choose another loss.name "
            "or model.head.name"
        )
    check_keywords("loss", LOSSES[name], 0, 0, *extras, **hyperparameters)
    for key, value in {"reference_size": reference_size, **hyperparameters}.items():
        if not value > 0:
            raise InputError(f"loss.{key}={value}: expected a positive number")
    elementwise = partial(LOSSES[name], **hyperparameters)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    jax.eval_shape(elementwise, *[number] * (2 + len(extras)))  # Raises now what it would later.
    scale = reference_size / image_size

    def face_loss(outputs, batch):
        more = (scale * outputs[extra][..., None] for extra in extras)
        losses = elementwise(scale * outputs["landmarks"], scale * batch["landmarks"], *more)
        return losses.mean(axis=(1, 2))

    return face_loss


def _extra_arguments(loss) -> tuple[str, ...]:
    """The names of what a loss takes besides predictions and targets, hyperparameters apart."""
    positional = [
        parameter.name
        for parameter in inspect.signature(loss).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is parameter.empty
    ]
    return tuple(positional[2:])
