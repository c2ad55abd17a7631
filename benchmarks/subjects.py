"""For each built-in rule a few blocks of a real network, on which the rule fires.

Each builder takes the size of its input: that of the network it is from, or one near it, so that a
batch of 8 takes some milliseconds on two processors. Weights are not set here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from kito.graph.keras_internals import LayerScale

Tensor = keras.KerasTensor

# Of the pictures of ImageNet.
MEAN = np.array([0.485, 0.456, 0.406], "float32")
DEVIATION = np.array([0.229, 0.224, 0.225], "float32")


@dataclass(frozen=True)
class Subject:
    """The name of the network that the blocks are from, and their builder."""

    network: str
    build: Callable[..., keras.Model]


def normalized(x: Tensor, linear: layers.Layer, activation: str | None = None) -> Tensor:
    """A linear layer, a BatchNormalization and, if given, an activation."""
    x = layers.BatchNormalization()(linear(x))
    return layers.Activation(activation)(x) if activation else x


def conv(filters: int, window: int, **options: int | str) -> layers.Conv2D:
    """A convolution as it stands in front of a BatchNormalization."""
    return layers.Conv2D(filters, window, padding="same", use_bias=False, **options)


def mobilenet_v2(size: int = 56) -> keras.Model:
    """MobileNetV2 from its third to its fifth stage, arXiv:1801.04381."""
    inputs = x = keras.Input((size, size, 24))
    for filters, strides in ((32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
        channels = x.shape[-1]
        y = layers.ReLU(6.0)(normalized(x, conv(6 * channels, 1)))
        if strides == 2:
            y = layers.ZeroPadding2D(((0, 1), (0, 1)))(y)
        padding = "same" if strides == 1 else "valid"
        depthwise = layers.DepthwiseConv2D(3, strides, padding, use_bias=False)
        y = layers.ReLU(6.0)(normalized(y, depthwise))
        y = normalized(y, conv(filters, 1))
        x = layers.Add()([x, y]) if filters == channels else y
    return keras.Model(inputs, x)


def xception(size: int = 19, filters: int = 256) -> keras.Model:
    """Two blocks of the middle flow of Xception, with fewer filters, arXiv:1610.02357."""
    inputs = x = keras.Input((size, size, filters))
    for _ in range(2):
        y = x
        for _ in range(3):
            separable = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)
            y = normalized(layers.ReLU()(y), separable)
        x = layers.Add()([x, y])
    return keras.Model(inputs, x)


def dcgan(size: int = 64, filters: int = 256) -> keras.Model:
    """The generator of DCGAN, with half of its filters, arXiv:1511.06434."""
    inputs = keras.Input((100,))
    x = layers.Dense((size // 16) ** 2 * filters)(inputs)
    x = layers.Reshape((size // 16, size // 16, filters))(x)
    for number in range(1, 4):
        transposed = layers.Conv2DTranspose(
            filters // 2**number, 4, strides=2, padding="same", use_bias=False
        )
        x = normalized(x, transposed, "relu")
    x = layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x)


def pointnet(size: int = 1024) -> keras.Model:
    """The layers of PointNet that all points share, arXiv:1612.00593."""
    inputs = x = keras.Input((size, 3))
    for units in (64, 64, 64, 128, 1024):
        x = normalized(x, layers.Dense(units), "relu")
    return keras.Model(inputs, layers.GlobalMaxPooling1D()(x))


def levit(size: int = 14, channels: int = 256) -> keras.Model:
    """Four blocks of two layers of LeViT-256, without its attention, arXiv:2104.01136."""
    tokens = size**2
    inputs = x = keras.Input((tokens, channels))
    for _ in range(4):
        wide = layers.EinsumDense("btc,cd->btd", (tokens, 2 * channels))
        narrow = layers.EinsumDense("btc,cd->btd", (tokens, channels))
        x = layers.Add()([x, normalized(normalized(x, wide, "hard_silu"), narrow)])
    return keras.Model(inputs, x)


def inception_time(size: int = 512) -> keras.Model:
    """Three modules of InceptionTime, on a time series, arXiv:1909.04939."""
    inputs = x = keras.Input((size, 128))
    for _ in range(3):
        bottleneck = layers.Conv1D(32, 1, padding="same", use_bias=False)(x)
        branches = [
            layers.Conv1D(32, window, padding="same", use_bias=False)(bottleneck)
            for window in (40, 20, 10)
        ]
        pooled = layers.MaxPooling1D(3, strides=1, padding="same")(x)
        branches.append(layers.Conv1D(32, 1, padding="same", use_bias=False)(pooled))
        x = layers.BatchNormalization()(layers.Concatenate()(branches))
        x = layers.Activation("relu")(x)
    return keras.Model(inputs, x)


def normalized_sums(size: int = 32) -> keras.Model:
    """Three blocks with projections of a ResNet that normalizes sums, arXiv:1603.05027, fig. 4b."""
    inputs = x = keras.Input((size, size, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = normalized(x, conv(filters, 3, strides=strides), "relu")
        y = layers.Add()([conv(filters, 3)(y), conv(filters, 1, strides=strides)(x)])
        x = layers.ReLU()(layers.BatchNormalization()(y))
    return keras.Model(inputs, x)


def video(frames: int = 16, size: int = 112) -> keras.Model:
    """The 3D ResNet with one block a stage, on short films, arXiv:1708.07632."""
    inputs = keras.Input((frames, size, size, 3))
    stem = layers.Conv3D(64, 7, strides=(1, 2, 2), padding="same", use_bias=False)
    x = layers.MaxPooling3D(3, strides=2, padding="same")(normalized(inputs, stem, "relu"))
    for filters in (64, 128, 256, 512):
        strides = 1 if filters == x.shape[-1] else 2
        options = {"padding": "same", "use_bias": False}
        first = layers.Conv3D(filters, 3, strides=strides, **options)
        y = normalized(normalized(x, first, "relu"), layers.Conv3D(filters, 3, **options))
        if strides > 1:
            x = normalized(x, layers.Conv3D(filters, 1, strides=strides, **options))
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(400)(layers.GlobalAveragePooling3D()(x)))


def binary_connect(size: int = 32) -> keras.Model:
    """The network of BinaryConnect, which pools before it normalizes, arXiv:1511.00363.

    Normalizations in front of a ReLU need no gamma; Inception-v3 of `keras.applications` has none.
    """
    inputs = x = keras.Input((size, size, 3))
    for filters in (64, 128, 256):
        x = normalized(x, conv(filters, 3), "relu")
        x = layers.MaxPooling2D()(conv(filters, 3)(x))
        x = layers.Activation("relu")(layers.BatchNormalization(scale=False)(x))
    return keras.Model(inputs, x)


def frames(size: int = 32) -> keras.Model:
    """A small network on each of eight frames of a video, as in LRCN, arXiv:1411.4389."""
    inputs = x = keras.Input((8, size, size, 3))
    for filters in (32, 64, 64):
        x = layers.TimeDistributed(conv(filters, 3, strides=2))(x)
        x = layers.TimeDistributed(layers.BatchNormalization())(x)
        x = layers.Activation("relu")(x)
    return keras.Model(inputs, layers.TimeDistributed(layers.GlobalAveragePooling2D())(x))


def densenet(size: int = 28) -> keras.Model:
    """Four layers of the second block of DenseNet121, arXiv:1608.06993."""
    inputs = x = keras.Input((size, size, 128))
    for _ in range(4):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        y = normalized(y, conv(128, 1), "relu")
        x = layers.Concatenate()([x, conv(32, 3)(y)])
    return keras.Model(inputs, x)


def pyramidnet(size: int = 28) -> keras.Model:
    """Three bottlenecks of PyramidNet, which normalizes first, arXiv:1610.02915."""
    inputs = x = keras.Input((size, size, 256))
    for _ in range(3):
        y = normalized(layers.BatchNormalization()(x), conv(64, 1), "relu")
        y = normalized(y, conv(64, 3), "relu")
        x = layers.Add()([x, normalized(y, conv(256, 1))])
    return keras.Model(inputs, x)


def edsr(size: int = 32) -> keras.Model:
    """Three residual blocks of EDSR, a network for super-resolution, arXiv:1707.02921."""
    inputs = x = keras.Input((size, size, 64))
    for _ in range(3):
        y = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
        y = layers.Conv2D(64, 3, padding="same")(y)
        x = layers.Add()([x, y * 0.1])
    return keras.Model(inputs, x)


def preprocessing(size: int = 224) -> keras.Model:
    """The preprocessing of ImageNet's pictures, and the first convolution of EfficientNet."""
    inputs = keras.Input((size, size, 3))
    x = (inputs / 255.0 - MEAN) / DEVIATION
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = normalized(x, layers.Conv2D(32, 3, strides=2, use_bias=False), "relu")
    return keras.Model(inputs, x)


def expandnet(size: int = 28) -> keras.Model:
    """Three convolutions, each made of three for training, as in ExpandNets, arXiv:1811.10495."""
    inputs = x = keras.Input((size, size, 16))
    for _ in range(3):
        x = conv(64, 3)(conv(64, 1)(x))
        x = layers.ReLU()(layers.Conv2D(16, 1)(x))
    return keras.Model(inputs, x)


def nasnet(size: int = 28, filters: int = 44) -> keras.Model:
    """Two normal cells of NASNetMobile, arXiv:1707.07012."""

    def separable(x: Tensor, window: int) -> Tensor:
        for _ in range(2):
            linear = layers.SeparableConv2D(filters, window, padding="same", use_bias=False)
            x = normalized(layers.Activation("relu")(x), linear)
        return x

    def pooled(x: Tensor) -> Tensor:
        return layers.AveragePooling2D(3, strides=1, padding="same")(x)

    inputs = before = x = keras.Input((size, size, 6 * filters))
    for _ in range(2):
        p, h = (
            normalized(layers.Activation("relu")(each), conv(filters, 1)) for each in (before, x)
        )
        pairs = (
            (separable(h, 5), separable(p, 3)),
            (separable(p, 5), separable(p, 3)),
            (pooled(h), p),
            (pooled(p), pooled(p)),
            (separable(h, 3), h),
        )
        before, x = x, layers.Concatenate()([p, *(layers.Add()(pair) for pair in pairs)])
    return keras.Model(inputs, x)


def nasnet_of_pytorch(size: int = 56) -> keras.Model:
    """A branch of three reductions of NASNet-A, arXiv:1707.07012, as it comes from PyTorch.

    There it pads one side, and then each convolution pads; a converter makes a layer of both.
    """
    inputs = x = keras.Input((size, size, 32))
    for filters in (64, 128, 256):
        x = layers.ZeroPadding2D(((1, 0), (1, 0)))(layers.ReLU()(x))
        x = layers.ZeroPadding2D(2)(x)
        x = layers.SeparableConv2D(filters, 5, strides=2, use_bias=False)(x)
        x = layers.BatchNormalization()(layers.Cropping2D(((1, 0), (1, 0)))(x))
        x = layers.ZeroPadding2D(2)(layers.ReLU()(x))
        x = normalized(x, layers.SeparableConv2D(filters, 5, use_bias=False))
    return keras.Model(inputs, x)


def stem(size: int = 160) -> keras.Model:
    """The first layers of ResNet, on pictures one larger, as DeepLab has them, arXiv:1606.00915."""
    inputs = keras.Input((size + 1, size + 1, 3))
    x = layers.ZeroPadding2D(3)(inputs)
    x = normalized(x, layers.Conv2D(64, 7, strides=2, use_bias=False), "relu")
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, x)


def repvgg_block(x: Tensor, filters: int, strides: int = 1) -> Tensor:
    """The three branches of a block of RepVGG, two where it strides."""
    branches = [normalized(x, conv(filters, window, strides=strides)) for window in (3, 1)]
    if strides == 1:
        branches.append(layers.BatchNormalization()(x))
    return layers.ReLU()(layers.Add()(branches))


def repvgg(size: int = 14) -> keras.Model:
    """Three blocks of the fourth stage of RepVGG-A0, arXiv:2101.03697."""
    inputs = x = keras.Input((size, size, 192))
    for _ in range(3):
        x = repvgg_block(x, 192)
    return keras.Model(inputs, x)


def resnext(size: int = 28, blocks: int = 2) -> keras.Model:
    """Blocks of the second stage of ResNeXt-50, which has 32 groups, arXiv:1611.05431."""
    inputs = x = keras.Input((size, size, 256))
    for _ in range(blocks):
        y = normalized(x, conv(128, 1), "relu")
        y = normalized(y, conv(128, 3, groups=32), "relu")
        x = layers.ReLU()(layers.Add()([x, normalized(y, conv(256, 1))]))
    return keras.Model(inputs, x)


def convnext(size: int = 14, channels: int = 160) -> keras.Model:
    """Three blocks of the third stage of ConvNeXt-Atto, arXiv:2201.03545."""
    inputs = x = keras.Input((size, size, channels))
    for _ in range(3):
        y = layers.Conv2D(channels, 7, padding="same", groups=channels)(x)
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        y = layers.Activation("gelu")(layers.Dense(4 * channels)(y))
        y = LayerScale(1e-6, channels)(layers.Dense(channels)(y))
        x = layers.Add()([x, y])
    return keras.Model(inputs, x)


def efficientnet(size: int = 28, channels: int = 40) -> keras.Model:
    """Three blocks of the third stage of EfficientNetB0, arXiv:1905.11946."""
    inputs = x = keras.Input((size, size, channels))
    wide = 6 * channels
    for _ in range(3):
        y = normalized(x, conv(wide, 1), "silu")
        y = normalized(y, layers.DepthwiseConv2D(5, padding="same", use_bias=False), "silu")
        gate = layers.Reshape((1, 1, wide))(layers.GlobalAveragePooling2D()(y))
        gate = layers.Conv2D(channels // 4, 1, activation="silu")(gate)
        gate = layers.Conv2D(wide, 1, activation="sigmoid")(gate)
        y = normalized(layers.Multiply()([y, gate]), conv(channels, 1))
        x = layers.Add()([x, layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(y)])
    return keras.Model(inputs, x)


def squeeze_excitation(size: int = 14, channels: int = 128) -> keras.Model:
    """Three blocks of SE-ResNet-18, with a Flatten that changes nothing, arXiv:1709.01507."""
    inputs = x = keras.Input((size, size, channels))
    for _ in range(3):
        y = normalized(normalized(x, conv(channels, 3), "relu"), conv(channels, 3))
        gate = layers.Flatten()(layers.GlobalAveragePooling2D()(y))
        gate = layers.Dense(channels // 16, activation="relu")(gate)
        gate = layers.Dense(channels, activation="sigmoid")(gate)
        y = layers.Multiply()([y, layers.Reshape((1, 1, channels))(gate)])
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, x)


def vision_transformer(size: int = 14, heads: int = 3) -> keras.Model:
    """Two blocks of ViT-Tiny, without the layers behind the attention, arXiv:2010.11929."""
    tokens, channels = size**2, 64 * heads
    inputs = x = keras.Input((tokens, channels))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        query, key, value = (
            layers.Permute((2, 1, 3))(layers.Reshape((tokens, heads, 64))(made))
            for made in (layers.Dense(channels)(y) for _ in range(3))
        )
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 8.0
        y = ops.matmul(layers.Softmax()(scores), value)
        y = layers.Reshape((tokens, channels))(layers.Permute((2, 1, 3))(y))
        x = layers.Add()([x, layers.Dense(channels)(y)])
    return keras.Model(inputs, x)


def attention_of_keras(size: int = 14, heads: int = 3) -> keras.Model:
    """Two blocks of ViT-Tiny, with the attention that Keras has, arXiv:2010.11929."""
    channels = 64 * heads
    inputs = x = keras.Input((size**2, channels))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, 64)(y, y)])
    return keras.Model(inputs, x)


def yolo(size: int = 28) -> keras.Model:
    """The largest head of YOLOv3, of which each part has a convolution, arXiv:1804.02767."""
    inputs = x = keras.Input((size, size, 64))
    for _ in range(2):
        x = normalized(normalized(x, conv(64, 1), "relu"), conv(128, 3), "relu")
    # Of each of three anchors: the box, whether there is something, and what.
    x = layers.Concatenate()([layers.Conv2D(3 * parts, 1)(x) for parts in (4, 1, 80)])
    return keras.Model(inputs, x)


def sngan(size: int = 32) -> keras.Model:
    """The discriminator of SNGAN, for small pictures, arXiv:1802.05957."""
    inputs = x = keras.Input((size, size, 3))
    for filters, window, strides in ((64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1)):
        linear = layers.Conv2D(filters, window, strides, padding="same")
        x = layers.LeakyReLU(0.1)(layers.SpectralNormalization(linear)(x))
    return keras.Model(inputs, x)


def deep_speech(size: int = 64) -> keras.Model:
    """The layers of Deep Speech that read one frame of a spectrogram each, arXiv:1412.5567."""
    inputs = x = keras.Input((size, 161))
    for _ in range(3):
        x = layers.TimeDistributed(layers.Dense(256, activation="relu"))(x)
    return keras.Model(inputs, x)


SUBJECTS: dict[str, Subject] = {
    rule: Subject(network, build)
    for network, build, *rules in (
        ("preprocessing", preprocessing, "affine_affine"),
        ("PyramidNet", pyramidnet, "affine_linear"),
        ("ResNet-110 for CIFAR", normalized_sums, "add_batchnorm"),
        ("InceptionTime", inception_time, "concatenate_batchnorm"),
        ("YOLOv3", yolo, "concatenated_siblings"),
        (
            "MobileNetV2",
            mobilenet_v2,
            "conv_batchnorm",
            "depthwise_conv_batchnorm",
            "linear_activation",
            "padding_conv",
        ),
        ("DCGAN", dcgan, "conv_transpose_batchnorm"),
        ("PointNet", pointnet, "dense_batchnorm"),
        (
            "ConvNeXt-Atto",
            convnext,
            "dense_rows",
            "gelu",
            "grouped_depthwise",
            "layer_normalization_dense",
            "layer_scale",
        ),
        ("NASNetMobile", nasnet, "duplicates"),
        ("LeViT-256", levit, "einsum_dense_batchnorm"),
        (
            "EfficientNetB0",
            efficientnet,
            "global_pooling_reshape",
            "identities",
            "silu",
            "squeeze_dense",
        ),
        ("ResNeXt-50", resnext, "grouped_blocks"),
        ("EDSR", edsr, "linear_affine"),
        ("ExpandNet", expandnet, "linear_linear"),
        ("BinaryConnect", binary_connect, "linear_moves_batchnorm"),
        ("DenseNet121", densenet, "lone_batchnorm"),
        ("DeepLab", stem, "padding_max_pooling"),
        ("NASNet-A of PyTorch", nasnet_of_pytorch, "padding_padding"),
        ("RepVGG-A0", repvgg, "parallel_branches"),
        ("ViT-Tiny", vision_transformer, "parallel_siblings"),
        ("ViT-Tiny of Keras", attention_of_keras, "layer_normalization_attention"),
        ("SE-ResNet-18", squeeze_excitation, "same_shape"),
        ("Xception", xception, "separable_conv_batchnorm", "separable_split"),
        ("SNGAN", sngan, "spectral_normalization"),
        ("LRCN", frames, "time_distributed_batchnorm"),
        ("Deep Speech", deep_speech, "time_distributed_dense"),
    )
    for rule in rules
}
