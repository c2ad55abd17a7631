"""Fifteen published networks, and weights for them that make a mistake in folding visible.

Eleven come from `keras.applications`; four are written here after the structure that their
authors published. The figures of `NETWORKS` are published too: parameters before and after
folding, and layers folded.

Every network takes `size`, the height and width of its square RGB picture (channels last), and
returns logits: a softmax or sigmoid at the end would flatten the differences tests look for.
None has a dtype of its own; the dtype policy in force when `build` is called decides.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import applications, layers

Tensor = keras.KerasTensor
Build = Callable[..., keras.Model]


@dataclass(frozen=True)
class Network:
    """A network, its builder, and the published figures of what folding does to it."""

    name: str
    build: Build  # build(size=<published size>) -> keras.Model
    before: int  # parameters as published
    after: int  # parameters once folded
    folded: int  # BatchNormalization layers folded


def _application(constructor: Build, published: int, **options: float) -> Build:
    """Builder of a network of `keras.applications`, untrained and without classifier activation."""

    def build(size: int = published) -> keras.Model:
        return constructor(
            input_shape=(size, size, 3), weights=None, classifier_activation=None, **options
        )

    return build


def _normalized(
    x: Tensor,
    linear: layers.Layer,
    norm: str | None = None,
    *,
    epsilon: float = 1e-3,
    activation: str | None = None,
) -> Tensor:
    """Apply `linear`, a BatchNormalization named `norm` and, if given, `activation`."""
    x = layers.BatchNormalization(epsilon=epsilon, name=norm)(linear(x))
    return layers.Activation(activation)(x) if activation else x


def zf_unet_224(size: int = 224) -> keras.Model:
    """ZF_UNET_224: U-Net with batch normalization and one mask as output.

    Ronneberger et al., "U-Net", arXiv:1505.04597; github.com/ZFTurbo/ZF_UNET_224_Pretrained_Model.
    The convolutions have a bias. `size` is a multiple of 32.
    """

    def double(x: Tensor, filters: int) -> Tensor:
        for _ in range(2):
            conv = layers.Conv2D(filters, 3, padding="same")
            x = _normalized(x, conv, activation="relu")
        return x

    inputs = x = keras.Input((size, size, 3))
    skips = []
    for filters in (32, 64, 128, 256, 512):
        skips.append(double(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = double(x, 1024)
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        x = double(x, skip.shape[-1])
    x = layers.SpatialDropout2D(0.2)(x)
    return keras.Model(inputs, layers.Conv2D(1, 1)(x), name="zf_unet_224")


def resnet152(size: int = 224) -> keras.Model:
    """ResNet152 as keras-resnet has it: convolutions without bias, the stride in the first one.

    He et al., "Deep Residual Learning", arXiv:1512.03385; github.com/broadinstitute/keras-resnet.
    Blocks of the two long stages are numbered (3a, 3b1, 3b2...), the others lettered (2a, 2b...).
    """

    def conv_bn(x: Tensor, filters: int, kernel: int, where: str, **options: int | str) -> Tensor:
        conv = layers.Conv2D(
            filters,
            kernel,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"res{where}",
            **options,
        )
        return _normalized(x, conv, f"bn{where}", epsilon=1e-5)

    def bottleneck(x: Tensor, filters: int, stride: int, name: str, project: bool) -> Tensor:
        y = conv_bn(x, filters, 1, f"{name}_branch2a", strides=stride)
        y = layers.Activation("relu", name=f"res{name}_branch2a_relu")(y)
        y = layers.ZeroPadding2D(1, name=f"padding{name}_branch2b")(y)
        y = conv_bn(y, filters, 3, f"{name}_branch2b")
        y = layers.Activation("relu", name=f"res{name}_branch2b_relu")(y)
        y = conv_bn(y, 4 * filters, 1, f"{name}_branch2c")
        if project:
            x = conv_bn(x, 4 * filters, 1, f"{name}_branch1", strides=stride)
        x = layers.Add(name=f"res{name}")([y, x])
        return layers.Activation("relu", name=f"res{name}_relu")(x)

    inputs = keras.Input((size, size, 3))
    stem = layers.Conv2D(64, 7, strides=2, padding="same", use_bias=False, name="conv1")
    x = _normalized(inputs, stem, "bn_conv1", epsilon=1e-5)
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    for stage, (blocks, numbered) in enumerate([(3, False), (8, True), (36, True), (3, False)]):
        for block in range(blocks):
            mark = f"b{block}" if numbered and block else "abc"[block]
            stride = 2 if stage and not block else 1
            x = bottleneck(x, 64 * 2**stage, stride, f"{stage + 2}{mark}", project=not block)
    x = layers.GlobalAveragePooling2D(name="pool5")(x)
    return keras.Model(inputs, layers.Dense(1000, name="fc1000")(x), name="resnet152")


def _pointwise(
    x: Tensor, filters: int, name: str, *, epsilon: float = 1e-5, activation: str | None = "relu"
) -> Tensor:
    """DeepLab's 1x1 convolution without bias, normalized."""
    conv = layers.Conv2D(filters, 1, use_bias=False, name=name)
    return _normalized(x, conv, f"{name}_BN", epsilon=epsilon, activation=activation)


def _separable(
    x: Tensor,
    filters: int,
    name: str,
    *,
    stride: int = 1,
    rate: int = 1,
    epsilon: float = 1e-5,
    relu_first: bool = False,
) -> Tensor:
    """DeepLab's separable convolution: depthwise and pointwise, each normalized.

    ReLU comes either once, before both (`relu_first`), or after each of the two. A stride pads
    by itself, evenly, where "same" would shift the picture by a pixel.
    """
    after = None if relu_first else "relu"
    if stride > 1:
        x = layers.ZeroPadding2D(rate)(x)
    if relu_first:
        x = layers.Activation("relu")(x)
    depthwise = layers.DepthwiseConv2D(
        3,
        strides=stride,
        dilation_rate=rate,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        name=f"{name}_depthwise",
    )
    x = _normalized(x, depthwise, f"{name}_depthwise_BN", epsilon=epsilon, activation=after)
    return _pointwise(x, filters, f"{name}_pointwise", epsilon=epsilon, activation=after)


def _mobile_backbone(x: Tensor) -> Tensor:
    """MobileNetV2 whose last two strides became dilation, so that its output stride is 8."""
    stem = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="Conv")
    x = _normalized(x, stem, "Conv_BN", activation="relu6")
    # One row per inverted residual: filters, stride, dilation of its depthwise convolution.
    rows = [(16, 1, 1), (24, 2, 1), (24, 1, 1), (32, 2, 1), (32, 1, 1), (32, 1, 1), (64, 1, 1)]
    rows += [(64, 1, 2)] * 3 + [(96, 1, 2)] * 3 + [(160, 1, 2)] + [(160, 1, 4)] * 2 + [(320, 1, 4)]
    for block, (filters, stride, rate) in enumerate(rows):
        prefix = f"expanded_conv_{block}_" if block else "expanded_conv_"
        y, channels = x, x.shape[-1]
        if block:
            expanded = 6 * channels
            y = _pointwise(y, expanded, f"{prefix}expand", epsilon=1e-3, activation="relu6")
        depthwise = layers.DepthwiseConv2D(
            3,
            strides=stride,
            dilation_rate=rate,
            padding="same",
            use_bias=False,
            name=f"{prefix}depthwise",
        )
        y = _normalized(y, depthwise, f"{prefix}depthwise_BN", activation="relu6")
        y = _pointwise(y, filters, f"{prefix}project", epsilon=1e-3, activation=None)
        residual = stride == 1 and channels == filters
        x = layers.Add(name=f"{prefix}add")([x, y]) if residual else y
    return x


def _xception_backbone(x: Tensor) -> tuple[Tensor, Tensor]:
    """Modified aligned Xception with output stride 16; also its features at stride 4."""

    def block(
        x: Tensor, filters: tuple[int, ...], name: str, shortcut: str, *, stride: int = 1
    ) -> tuple[Tensor, Tensor]:
        # The third separable convolution strides; the second one's output serves the decoder.
        options = {"epsilon": 1e-3, "relu_first": shortcut != "none"}
        if shortcut == "none":
            options["rate"] = 2
        first, second, third = filters
        y = _separable(x, first, f"{name}_separable_conv1", **options)
        skip = _separable(y, second, f"{name}_separable_conv2", **options)
        y = _separable(skip, third, f"{name}_separable_conv3", stride=stride, **options)
        if shortcut == "conv":
            conv = layers.Conv2D(third, 1, stride, use_bias=False, name=f"{name}_shortcut")
            x = _normalized(x, conv, f"{name}_shortcut_BN")
        return (y if shortcut == "none" else layers.Add()([y, x])), skip

    for number, filters, stride in ((1, 32, 2), (2, 64, 1)):
        name = f"entry_flow_conv1_{number}"
        conv = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=name)
        x = _normalized(x, conv, f"{name}_BN", activation="relu")
    x, _ = block(x, (128,) * 3, "entry_flow_block1", "conv", stride=2)
    x, skip = block(x, (256,) * 3, "entry_flow_block2", "conv", stride=2)
    x, _ = block(x, (728,) * 3, "entry_flow_block3", "conv", stride=2)
    for unit in range(1, 17):
        x, _ = block(x, (728,) * 3, f"middle_flow_unit_{unit}", "sum")
    x, _ = block(x, (728, 1024, 1024), "exit_flow_block1", "conv")
    x, _ = block(x, (1536, 1536, 2048), "exit_flow_block2", "none")
    return x, skip


def _resized_like(x: Tensor, other: Tensor) -> Tensor:
    """`x`, interpolated bilinearly to the height and width of `other`."""
    return layers.Resizing(*other.shape[1:3], interpolation="bilinear")(x)


def _deeplab(inputs: Tensor, x: Tensor, skip: Tensor | None, name: str) -> keras.Model:
    """DeepLabV3+ on the features `x`: spatial pyramid, 21 classes and, with `skip`, the decoder."""
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = _resized_like(_pointwise(pooled, 256, "image_pooling"), x)
    branches = [pooled, _pointwise(x, 256, "aspp0")]
    if skip is not None:
        for number, rate in enumerate((6, 12, 18), start=1):
            branches.append(_separable(x, 256, f"aspp{number}", rate=rate))
    x = _pointwise(layers.Concatenate()(branches), 256, "concat_projection")
    x = layers.Dropout(0.1)(x)
    if skip is not None:
        skip = _pointwise(skip, 48, "feature_projection0")
        x = layers.Concatenate()([_resized_like(x, skip), skip])
        for number in range(2):
            x = _separable(x, 256, f"decoder_conv{number}")
    x = layers.Conv2D(21, 1, name="logits_semantic")(x)
    return keras.Model(inputs, _resized_like(x, inputs), name=name)


def deeplab_mobile(size: int = 512) -> keras.Model:
    """DeepLabV3+ on MobileNetV2, output stride 8: two pyramid branches and no decoder.

    Chen et al., arXiv:1802.02611; Sandler et al., arXiv:1801.04381;
    github.com/bonlime/keras-deeplab-v3-plus. Of any `size`.
    """
    inputs = keras.Input((size, size, 3))
    return _deeplab(inputs, _mobile_backbone(inputs), None, "deeplab_mobile")


def deeplab_xception(size: int = 512) -> keras.Model:
    """DeepLabV3+ on modified Xception, output stride 16: five pyramid branches and the decoder.

    Chen et al., arXiv:1802.02611; Chollet, arXiv:1610.02357;
    github.com/bonlime/keras-deeplab-v3-plus. Of any `size`.
    """
    inputs = keras.Input((size, size, 3))
    return _deeplab(inputs, *_xception_backbone(inputs), "deeplab_xception")


# Papers: MobileNet arXiv:1704.04861, MobileNetV2 1801.04381, ResNet 1512.03385, Inception v3
# 1512.00567, Inception-ResNet v2 1602.07261, Xception 1610.02357, DenseNet 1608.06993,
# NASNet 1707.07012.
_mobilenet = _application(applications.MobileNet, 224)
_mobilenet_v2 = _application(applications.MobileNetV2, 224, alpha=1.4)
_resnet50 = _application(applications.ResNet50, 224)
_inception_v3 = _application(applications.InceptionV3, 299)
_inception_resnet_v2 = _application(applications.InceptionResNetV2, 299)
_xception = _application(applications.Xception, 299)
_densenet121 = _application(applications.DenseNet121, 224)
_densenet169 = _application(applications.DenseNet169, 224)
_densenet201 = _application(applications.DenseNet201, 224)
_nasnet_mobile = _application(applications.NASNetMobile, 224)
_nasnet_large = _application(applications.NASNetLarge, 331)

NETWORKS: tuple[Network, ...] = (
    Network("MobileNet", _mobilenet, 4_253_864, 4_221_032, 27),
    Network("MobileNetV2-1.4", _mobilenet_v2, 6_156_712, 6_084_808, 52),
    Network("ResNet50", _resnet50, 25_636_712, 25_530_472, 53),
    Network("InceptionV3", _inception_v3, 23_851_784, 23_817_352, 94),
    Network("InceptionResNetV2", _inception_resnet_v2, 55_873_736, 55_813_192, 204),
    Network("Xception", _xception, 22_910_480, 22_828_688, 40),
    Network("DenseNet121", _densenet121, 8_062_504, 8_040_040, 59),
    Network("DenseNet169", _densenet169, 14_307_880, 14_276_200, 83),
    Network("DenseNet201", _densenet201, 20_242_984, 20_205_160, 99),
    Network("NASNetMobile", _nasnet_mobile, 5_326_716, 5_272_599, 188),
    Network("NASNetLarge", _nasnet_large, 88_949_818, 88_658_596, 260),
    Network("ZF_UNET_224", zf_unet_224, 31_466_753, 31_442_689, 22),
    Network("DeepLabV3+mobile", deeplab_mobile, 2_146_645, 2_097_013, 54),
    Network("DeepLabV3+xception", deeplab_xception, 41_258_213, 40_954_013, 146),
    Network("ResNet152-keras-resnet", resnet152, 60_344_232, 60_117_096, 155),
)


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Give biases and every BatchNormalization random values, and keep the activations tame.

    Kernels keep what their initializer gave them. Gamma is of either sign, a third negative. The
    moving statistics are random too, in units of the power that random pictures have at each
    layer in one pass: the signal neither bursts nor drowns. They are not the true statistics, on
    purpose: a random network that removes the mean of each channel is chaotic, and would amplify
    the last bit of its own weights through hundreds of layers; a trained one does not.
    """
    rng = np.random.default_rng(seed)
    flat = list(model._flatten_layers(include_self=False))
    norms = [layer for layer in flat if isinstance(layer, layers.BatchNormalization)]
    dropouts = [layer for layer in flat if isinstance(layer, layers.Dropout)]

    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(0, 0.1, weight.shape))
    for norm in norms:
        if norm.scale:
            size = norm.gamma.shape
            sign = np.where(rng.random(size) < 1 / 3, -1.0, 1.0)
            norm.gamma.assign(sign * rng.uniform(0.5, 1.5, size))
        if norm.center:
            norm.beta.assign(rng.normal(0, 0.3, norm.beta.shape))

    # With momentum 0 the moving statistics become those of the batch; without dropout, exactly.
    kept = [(layer, "momentum", layer.momentum) for layer in norms]
    kept += [(layer, "rate", layer.rate) for layer in dropouts]
    try:
        for layer, attribute, _ in kept:
            setattr(layer, attribute, 0.0)
        batch = [_pictures(rng, tensor.shape) for tensor in model.inputs]
        model(batch if len(batch) > 1 else batch[0], training=True)
    finally:
        for layer, attribute, value in kept:
            setattr(layer, attribute, value)

    for norm in norms:
        mean = np.asarray(norm.moving_mean, "float64")
        variance = np.asarray(norm.moving_variance, "float64")
        power = np.mean(variance + mean**2)
        norm.moving_mean.assign(rng.normal(0, 0.5, mean.shape) * np.sqrt(power))
        norm.moving_variance.assign(1.25 * power * rng.uniform(0.5, 2.0, variance.shape))


def _pictures(rng: np.random.Generator, shape: tuple[int | None, ...]) -> np.ndarray:
    """A few noisy pictures of differing brightness and contrast; fewer when they are large."""
    _, *shape = [axis or 64 for axis in shape]
    batch = 8 if np.prod(shape) <= 3 * 128**2 else 3
    brightness = rng.normal(0, 0.5, (batch, *[1] * (len(shape) - 1), shape[-1]))
    contrast = rng.uniform(0.5, 1.5, (batch, *[1] * len(shape)))
    return (brightness + contrast * rng.normal(0, 1, (batch, *shape))).astype("float32")
