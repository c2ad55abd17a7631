"""Linear layer -> affine map per channel: one linear layer.

The algebra is that of a BatchNormalization, which is such a map too, with other numbers:

    scale * linear(x, kernel, bias) + shift = linear(x, kernel * scale, bias * scale + shift)

`affine.py` says what scale and shift are; the rule of each linear layer says along which axis of
the kernel they lie.
"""

from kito.definition import Layer, Node, chain, rule
from kito.rules.affine import PLAIN_AFFINE, affine_of
from kito.rules.linear import LINEAR, folded, linear_axis


@rule(chain(linear=LINEAR, affine=PLAIN_AFFINE), opens=False)
def linear_affine(linear: Node, affine: Node) -> Layer:
    """Fold a Rescaling, Normalization or arithmetic with constants into the layer before it."""
    axis = linear_axis(linear)
    channels = linear.output.shape[axis]
    assert channels is not None  # the number of filters
    scale, shift = affine_of(affine, linear.output).along(axis, channels)
    return folded(linear, affine, scale, shift)
