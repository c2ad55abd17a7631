"""The built-in rules: one file a family, registered through the hook that plugins use."""

from __future__ import annotations

from collections.abc import Sequence

from kito.definition import Rule, hookimpl
from kito.rules import (
    conv,
    conv_transpose,
    dense,
    depthwise,
    separable,
    spectral_normalization,
    time_distributed,
)


@hookimpl
def register_rules() -> Sequence[Rule]:
    """Every rule that kito brings."""
    return [
        conv.conv_batchnorm,
        conv_transpose.conv_transpose_batchnorm,
        dense.dense_batchnorm,
        depthwise.depthwise_conv_batchnorm,
        separable.separable_conv_batchnorm,
        spectral_normalization.spectral_normalization,
        time_distributed.time_distributed_batchnorm,
    ]
