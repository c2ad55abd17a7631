"""BatchNormalization that stays alone -> 1x1 depthwise convolution.

An affine map per channel is a depthwise convolution with a window of one:

    scale * x + shift = depthwise(x, kernel=scale) + shift

Where no linear layer can take a normalization in, this form is faster than the normalization
itself, above all with a ReLU behind it, which runtimes fuse with a convolution.
"""

from __future__ import annotations

from keras.layers import BatchNormalization, DepthwiseConv2D

from kito.definition import Decline, Layer, Node, chain, rule, where
from kito.rules.batchnorm import scale_and_shift


def _is_of_images(bn: Node) -> bool:
    """Whether it normalizes the last axis of a batch of images."""
    return len(bn.output.shape) == 4 and bn.axis in (-1, 3)


@rule(
    chain(bn=where(BatchNormalization, _is_of_images)),
    default=("tensorflow", "onnx"),
    opens=False,
    late=True,
)
def lone_batchnorm(bn: Node) -> Layer:
    """Run a BatchNormalization that nothing takes in as a depthwise convolution."""
    if bn.output.dtype != "float32":
        raise Decline(f"{bn.name} computes in {bn.output.dtype}")
    if 0 in bn.output.shape:
        raise Decline(f"the output of {bn.name} is empty")
    scale, shift = scale_and_shift(bn)
    return Layer.new(
        DepthwiseConv2D,
        {"kernel": scale.reshape(1, 1, -1, 1), "bias": shift},
        name=bn.name,
        dtype=bn.layer.config["dtype"],
        kernel_size=1,
        data_format="channels_last",
    )
