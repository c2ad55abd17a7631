"""A pooling of single pixels -> a convolution of single pixels: the convolution alone.

A pooling layer whose window is one pixel takes every s-th pixel, for the largest of one number, or
its mean, is that number. A convolution with a kernel of one pixel and strides t takes every t-th of
these. With x[i] for the channels of pixel i:

    pool(x)[i] = x[s * i]
    conv(y)[j] = y[t * j] @ kernel + bias

    conv(pool(x))[j] = x[s * t * j] @ kernel + bias

which is the same convolution with strides s * t.
"""

from keras.layers import AveragePooling2D, Conv2D, MaxPooling2D

from kito import Decline, chain, hookimpl, rule, where

POOLING = where((AveragePooling2D, MaxPooling2D), lambda pool: set(pool.pool_size) == {1})


@rule(chain(pool=POOLING, conv=Conv2D), default=False)
def example_subsampling_conv(pool, conv):
    """Let a convolution of single pixels leave out those that a pooling leaves out."""
    if set(conv.kernel_size) != {1}:
        raise Decline(f"{conv.name} reads more than one pixel")
    if pool.data_format != conv.data_format:
        raise Decline(f"{pool.name} has its channels on another axis than {conv.name}")
    if pool.output.dtype != conv.output.dtype:
        raise Decline(f"{conv.name} turns {pool.output.dtype} into {conv.output.dtype}")
    strides = [one * other for one, other in zip(pool.strides, conv.strides, strict=True)]
    # Keras allows no strides with a dilation, which means nothing to a kernel of one pixel.
    return conv.evolve(strides=strides, dilation_rate=1)


@hookimpl
def register_rules():
    """Return the rules of this plugin."""
    return [example_subsampling_conv]
