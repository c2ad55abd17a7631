"""SpectralNormalization(layer) -> the layer.

SpectralNormalization divides the kernel by its largest singular value after each training step,
and stores the result in the layer's own kernel (Miyato et al. 2018,
https://arxiv.org/abs/1802.05957). At inference nothing is left to do but to call the layer.
"""

from keras.layers import SpectralNormalization

from kito.definition import Decline, Layer, Node, chain, rule


@rule(chain(norm=SpectralNormalization))
def spectral_normalization(norm: Node) -> Layer:
    """Take a layer out of the SpectralNormalization around it."""
    layer = norm.wrapped
    if any("/" in name for name in layer.variables):
        raise Decline(f"{norm.name} wraps {layer.name}, which has layers inside")
    if str(layer.source.compute_dtype) != norm.output.dtype:
        raise Decline(f"{norm.name} casts the {layer.source.compute_dtype} of {layer.name}")
    if None in norm.output.shape[1:]:
        # Keras infers less through the wrapper than it does for the layer, and the shapes that a
        # model shows should stay.
        raise Decline(f"the sizes of {norm.name}'s output are not known")
    return layer.evolve()
