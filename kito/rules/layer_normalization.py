"""LayerNormalization -> linear layer: the LayerNormalization without its scale and shift.

    normalized = (x - mean) / sqrt(variance + epsilon)
    LayerNormalization(x) = normalized * gamma + beta

(Ba et al. 2016, https://arxiv.org/abs/1607.06450.) What is behind `normalized` is an affine map of
each channel, and the linear layers that read it take that in, as they do in `affine_linear.py`.

The LayerNormalization stays, and has less to do. Keras 3.15 on TensorFlow computes x * a + b, where
a and b are numbers for each mean without gamma and beta, and tensors as large as x with them; so do
the models that it exports to ONNX Runtime and LiteRT. JAX compiles it into one pass either way,
OpenVINO and PyTorch have one kernel for it: little or nothing is gained there.

All that read it must take gamma and beta in: one Dense layer, or those that make queries, keys and
values. Layers that have these inside are in `layer_normalization_attention.py`.
"""

import numpy as np
from keras.layers import LayerNormalization

from kito.definition import Call, Decline, Layer, Node, readers, rule, where
from kito.rules.affine import Affine
from kito.rules.affine_linear import READERS, absorbed


def has_weights(norm: Node) -> bool:
    """Whether a LayerNormalization scales or shifts."""
    return bool(norm.layer.config["scale"] or norm.center)


@rule(
    readers(
        norm=where(LayerNormalization, has_weights),
        linear=READERS,
    ),
    default=["tensorflow", "onnx", "litert"],
    opens=False,
)
def layer_normalization_dense(norm: Node, linear: tuple[Node, ...]) -> list[Call]:
    """Move the scale and shift of a LayerNormalization into the linear layers after it."""
    affine = affine_of(norm)
    normalized = without_weights(norm)(norm.input)
    return [layer(normalized) for layer in absorbed(linear, norm, affine, norm.output)]


def without_weights(norm: Node) -> Layer:
    """The LayerNormalization that normalizes, and does nothing else."""
    return Layer.new(
        LayerNormalization,
        name=norm.name,
        dtype=norm.config["dtype"],
        axis=norm.axis,
        epsilon=norm.epsilon,
        scale=False,
        center=False,
    )


def affine_of(norm: Node) -> Affine:
    """What the layer does to the normalized tensor.

    Raises:
        Decline: it normalizes otherwise than by channel, or a weight is not finite.
    """
    if norm.rms_scaling:
        raise Decline(f"{norm.name} has rms_scaling, and computes something else")
    rank = len(norm.output.shape)
    if [axis % rank for axis in norm.axis] != [rank - 1]:
        raise Decline(f"{norm.name} normalizes axes {norm.axis}, not the last one only")
    gamma = norm.gamma if norm.layer.config["scale"] else np.ones_like(norm.beta)
    beta = norm.beta if norm.center else np.zeros_like(gamma)
    if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
        raise Decline(f"a weight of {norm.name} is not finite")
    return Affine(norm.name, gamma.astype(np.float64), beta.astype(np.float64), rank - 1)
