"""Layers that return what they are given.

Noise and augmentation act in training only. Others do nothing with the values that they were built
with: padding by nothing, pooling over one value, axes in their own order. A Reshape or Flatten may
find the shape that it would make.

Of an augmentation layer that is called without `training=False`, Keras records `training=True`.
Then `predict` does not augment, but a call of the model does, and an exported model. No rule
touches what is called in this way.
"""

from __future__ import annotations

from keras import layers

from kito.definition import Graph, Match, Node, Provided, Ref, chain, rule, where
from kito.operations import ReshapeOperation, StochasticDepth
from kito.rules.activation import is_linear

IN_TRAINING_ONLY = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.RandomBrightness,
    layers.RandomColorJitter,
    layers.RandomContrast,
    layers.RandomErasing,
    layers.RandomFlip,
    layers.RandomHue,
    layers.RandomPerspective,
    layers.RandomRotation,
    layers.RandomSaturation,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    StochasticDepth,
)
# The entry of the configuration and what it is where the layer does nothing, number by number.
NOTHING = {
    layers.Cropping1D: ("cropping", 0),
    layers.Cropping2D: ("cropping", 0),
    layers.Cropping3D: ("cropping", 0),
    layers.UpSampling1D: ("size", 1),
    layers.UpSampling2D: ("size", 1),
    layers.UpSampling3D: ("size", 1),
    layers.ZeroPadding1D: ("padding", 0),
    layers.ZeroPadding2D: ("padding", 0),
    layers.ZeroPadding3D: ("padding", 0),
    layers.AveragePooling1D: ("pool_size", 1),
    layers.AveragePooling2D: ("pool_size", 1),
    layers.AveragePooling3D: ("pool_size", 1),
    layers.MaxPooling1D: ("pool_size", 1),
    layers.MaxPooling2D: ("pool_size", 1),
    layers.MaxPooling3D: ("pool_size", 1),
}


def _does_nothing(layer: Node) -> bool:
    cls, config = layer.layer.cls, layer.layer.config
    if cls in NOTHING:
        entry, nothing = NOTHING[cls]
        strides = _numbers(config.get("strides", 1))
        # Other interpolations may compute in float32, whatever they are given.
        plain = config.get("interpolation", "nearest") == "nearest"
        return plain and {*_numbers(config[entry])} == {nothing} and {*strides} == {1}
    if cls is layers.Activation:
        return is_linear(layer)
    if cls is layers.Permute:
        return [*config["dims"]] == sorted(config["dims"])
    return True


@rule(
    chain(
        layer=where((*IN_TRAINING_ONLY, *NOTHING, layers.Activation, layers.Permute), _does_nothing)
    ),
    opens=False,
)
def identities(layer: Node) -> Ref:
    """Leave out a layer that returns what it is given."""
    return layer.input


def _keeps_shape(graph: Graph, match: Match) -> bool:
    """Whether a tensor is reshaped to the shape that it has."""
    node = match.head
    if len(node.refs) != 1:
        return False
    before, after = graph.tensor(node.input).shape, node.output.shape
    # One size that is not known is what the others leave; two could be exchanged. No layer touches
    # the batch.
    sizes = after if node.layer.cls is ReshapeOperation else after[1:]
    return before == after and sizes.count(None) <= 1


RESHAPE = (layers.Flatten, layers.Reshape, ReshapeOperation)


@rule(Provided(chain(reshape=RESHAPE), _keeps_shape), opens=False)
def same_shape(reshape: Node) -> Ref:
    """Leave out what reshapes a tensor to the shape that it has."""
    return reshape.input


def _numbers(entry: object) -> list[object]:
    if isinstance(entry, (list, tuple)):
        return [number for each in entry for number in _numbers(each)]
    return [entry]
