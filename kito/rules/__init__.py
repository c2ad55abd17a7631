"""The built-in rules: one file a family, registered through the hook that plugins use."""

from __future__ import annotations

from collections.abc import Sequence

from kito.definition import Rule, hookimpl
from kito.rules import (
    activation,
    add_batchnorm,
    affine_affine,
    affine_linear,
    batchnorm_backward,
    branches,
    concatenate_batchnorm,
    conv,
    conv_transpose,
    dense,
    dense_rows,
    depthwise,
    duplicates,
    einsum_dense,
    gelu,
    global_pooling,
    grouped,
    identities,
    layer_normalization,
    layer_scale,
    linear_affine,
    linear_linear,
    lone_batchnorm,
    padding,
    separable,
    separable_split,
    siblings,
    silu,
    spectral_normalization,
    squeeze,
    time_distributed,
)


@hookimpl
def register_rules() -> Sequence[Rule]:
    """Every rule that kito brings."""
    return [
        activation.linear_activation,
        add_batchnorm.add_batchnorm,
        affine_affine.affine_affine,
        affine_linear.affine_linear,
        batchnorm_backward.linear_moves_batchnorm,
        branches.parallel_branches,
        concatenate_batchnorm.concatenate_batchnorm,
        conv.conv_batchnorm,
        conv_transpose.conv_transpose_batchnorm,
        dense.dense_batchnorm,
        dense_rows.dense_rows,
        depthwise.depthwise_conv_batchnorm,
        duplicates.duplicates,
        einsum_dense.einsum_dense_batchnorm,
        gelu.gelu,
        global_pooling.global_pooling_reshape,
        grouped.grouped_blocks,
        grouped.grouped_depthwise,
        identities.identities,
        identities.same_shape,
        layer_normalization.layer_normalization_dense,
        layer_scale.layer_scale,
        linear_affine.linear_affine,
        linear_linear.linear_linear,
        lone_batchnorm.lone_batchnorm,
        padding.padding_conv,
        padding.padding_max_pooling,
        padding.padding_padding,
        separable.separable_conv_batchnorm,
        separable_split.separable_split,
        siblings.concatenated_siblings,
        siblings.parallel_siblings,
        silu.silu,
        spectral_normalization.spectral_normalization,
        squeeze.squeeze_dense,
        time_distributed.time_distributed_batchnorm,
    ]
