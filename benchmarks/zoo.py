"""Optimize every published network that can be built without a download, and check the results.

    nox -s zoo                                       all networks that are not in the results yet
    nox -s zoo -- --package hub --only MobileNet     some, whatever the results hold

applications  every network of `keras.applications`, with random weights, at the smallest size.
hub           backbones and tasks of keras-hub, from small configurations like those that its own
              tests use.
blocks        networks of layers of their own, as people write them (blocks.py).

For each: are the answers the same, does a second `kito.optimize` find nothing more to do, does the
result load and compute the same in a process without kito? How many normalizations are left and
why, and how long does the conversion take next to Keras' own copy of the model? Answers that
differ by more than `TOLERANCE` are compared twice more: in float64, where a network that amplifies
rounding agrees and a mistake does not; and without oneDNN, whose fused kernels are not all right.

Networks of `keras.applications` have a process each, for their memory; the others, which are small,
have one in common for each package. The figures go to benchmarks/results, one row a network:
`zoo.csv`, and as a table `zoo.md`. A run skips the networks that have a row; `--only` and `--retry`
run them again.
"""

from __future__ import annotations

import csv
import gc
import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = 1e-5  # of the largest output, in float32
SECONDS = 1_800  # the most that one network may take

COLUMNS = {
    "package": "package",
    "network": "network",
    "layers": "layers",
    "bn_before": "BN",
    "bn_after": "BN after",
    "rewrites": "rewrites",
    "ratio": "optimize : clone",
    "optimize_seconds": "optimize, s",
    "clone_seconds": "clone, s",
    "difference": "difference",
    "difference_float64": "in float64",
    "difference_plain": "without oneDNN",
    "again": "optimized again",
    "saved": "saved and loaded",
    "left": "normalizations left",
    "notes": "notes",
    "error": "error",
}

Row = dict[str, Any]


# --- which networks ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A class or function, by its dotted name, and its arguments, which may be networks too."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    positional: tuple[Any, ...] = ()

    def build(self) -> Any:
        """The object, with new weights."""
        options = {name: _built(value) for name, value in self.options.items()}
        return pkgutil.resolve_name(self.what)(*self.positional, **options)


def _built(value: Any) -> Any:
    return value.build() if isinstance(value, Network) else value


# Where 32 is too small, what the networks ask for.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "MobileNet": [{"alpha": alpha} for alpha in (0.25, 0.5, 0.75)],
    "MobileNetV2": [{"alpha": alpha} for alpha in (0.35, 0.5, 0.75, 1.3, 1.4)],
    "MobileNetV3Small": [{"alpha": 0.75}, {"minimalistic": True}],
    "MobileNetV3Large": [{"alpha": 0.75}, {"minimalistic": True}],
    "ResNet50": [{"include_top": False}],
    "EfficientNetB0": [{"include_top": False, "pooling": "max"}],
}


def applications() -> dict[str, Network]:
    """Every network of `keras.applications`, by name."""
    from keras import applications as package  # noqa: PLC0415 (the parent process needs no Keras)

    found = {}
    for name, function in vars(package).items():
        if not (name[0].isupper() and inspect.isfunction(function)):
            continue
        size = SIZES.get(name, 32)
        basic = {"weights": None, "input_shape": (size, size, 3), "classifier_activation": None}
        for extra in [{}, *VARIANTS.get(name, [])]:
            label = ", ".join([name, *(f"{key}={value}" for key, value in extra.items())])
            found[label] = Network(f"keras.applications.{name}", basic | extra)
    return found


def _models(name: str, /, **options: Any) -> Network:
    return Network(f"keras_hub.models.{name}", options)


def _src(name: str, /, *positional: Any, **options: Any) -> Network:
    return Network(f"keras_hub.src.models.{name}", options, positional)


def _resnet(block: str = "basic_block", *, deep: bool = False, **options: Any) -> Network:
    filters, sizes = ([32, 32, 64], [3, 3, 3]) if deep else ([64], [7])
    return _models(
        "ResNetBackbone",
        **{
            "input_conv_filters": filters,
            "input_conv_kernel_sizes": sizes,
            "stackwise_num_filters": [64, 64, 64],
            "stackwise_num_blocks": [2, 2, 2],
            "stackwise_num_strides": [1, 2, 2],
            "block_type": block,
        }
        | options,
    )


def _four_stages(block: str = "basic_block") -> Network:
    return _resnet(
        block,
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
    )


def _cspnet(stage: str, block: str, **options: Any) -> Network:
    return _models(
        "CSPNetBackbone",
        **{
            "stem_filters": 32,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_strides": 2,
            "stackwise_depth": [1, 2, 4],
            "stackwise_num_filters": [16, 24, 48],
            "image_shape": (None, None, 3),
            "down_growth": True,
            "bottle_ratio": (0.5, 1.0),
            "block_ratio": (1.0, 0.5),
            "expand_ratio": (2.0, 1.0),
            "block_type": block,
            "stage_type": stage,
            "stem_padding": "same",
        }
        | options,
    )


def _hgnet(*, affine: bool = False, light: bool = False, size: int | None = 64) -> Network:
    return _models(
        "HGNetV2Backbone",
        embedding_size=32,
        stem_channels=[3, 16, 32],
        hidden_act="relu",
        use_learnable_affine_block=affine,
        image_shape=(size, size, 3),
        depths=[1, 1],
        hidden_sizes=[64, 128],
        stackwise_stage_filters=[[32, 16, 64, 1, 1, 3], [64, 32, 128, 1, 1, 3]],
        apply_downsample=[light, True],
        use_lightweight_conv_block=[light, light],
        out_features=["stem", "stage1", "stage2"],
    )


# As its authors trained it; where times are concerned, the small ones say little.
_HGNET_B4 = _models(
    "HGNetV2Backbone",
    embedding_size=48,
    stem_channels=[3, 32, 48],
    hidden_act="relu",
    use_learnable_affine_block=True,
    image_shape=(224, 224, 3),
    depths=[1, 1, 3, 1],
    hidden_sizes=[128, 512, 1024, 2048],
    stackwise_stage_filters=[
        [48, 48, 128, 1, 6, 3],
        [128, 96, 512, 1, 6, 3],
        [512, 192, 1024, 3, 6, 5],
        [1024, 384, 2048, 1, 6, 5],
    ],
    apply_downsample=[False, True, True, True],
    use_lightweight_conv_block=[False, False, True, True],
)


def _mobilenet_v5(*, msfa: bool = False, attention: bool = False) -> Network:
    rows = {
        "block_types": [["er"], ["uir", "uir"]],
        "num_filters": [[24], [48, 48]],
        "strides": [[2], [2, 1]],
        "act_layers": [["relu"], ["relu", "relu"]],
        "exp_ratios": [[4.0], [6.0, 6.0]],
        "se_ratios": [[0.0], [0.0, 0.0]],
        "dw_kernel_sizes": [[0], [5, 5]],
        "dw_start_kernel_sizes": [[0], [0, 0]],
        "dw_end_kernel_sizes": [[0], [0, 0]],
        "exp_kernel_sizes": [[3], [0, 0]],
        "pw_kernel_sizes": [[1], [0, 0]],
        "num_heads": [[0], [0, 0]],
        "key_dims": [[0], [0, 0]],
        "value_dims": [[0], [0, 0]],
        "kv_strides": [[0], [0, 0]],
        "use_cpe": [[False], [False, False]],
    }
    if attention:
        rows |= {
            "block_types": [["er"], ["uir", "mqa"]],
            "num_heads": [[0], [0, 4]],
            "key_dims": [[0], [0, 16]],
            "value_dims": [[0], [0, 16]],
            "kv_strides": [[0], [0, 2]],
            "dw_start_kernel_sizes": [[0], [3, 0]],
        }
    return _models(
        "MobileNetV5Backbone",
        **{f"stackwise_{name}": value for name, value in rows.items()},
        stackwise_num_blocks=[1, 2],
        image_shape=(32, 32, 3),
        stem_size=16,
        use_msfa=msfa,
    )


def _dino_v3(*, size: int, **options: Any) -> Network:
    return _models(
        "DINOV3Backbone",
        **options,
        patch_size=16,
        layer_scale_init_value=1.0,
        num_register_tokens=4,
        use_gated_mlp=False,
        image_shape=(size, size, 3),
    )


_MOBILENET = _models(
    "MobileNetBackbone",
    stackwise_expansion=[[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
    stackwise_num_blocks=[2, 3, 2, 3],
    stackwise_num_filters=[[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
    stackwise_kernel_size=[[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
    stackwise_num_strides=[[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    stackwise_se_ratio=[[None, None], [0.25] * 3, [0.25] * 2, [0.25] * 3],
    stackwise_activation=[
        ["relu"] * 2,
        ["hard_swish"] * 3,
        ["hard_swish"] * 2,
        ["hard_swish"] * 3,
        ["hard_swish"],
    ],
    stackwise_padding=[[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
    output_num_filters=1024,
    input_activation="hard_swish",
    output_activation="hard_swish",
    input_num_filters=16,
    image_shape=(32, 32, 3),
    depthwise_filters=8,
    depthwise_stride=2,
    depthwise_residual=False,
    squeeze_and_excite=0.5,
    last_layer_filter=288,
)
_EFFICIENTNET = _models(
    "EfficientNetBackbone",
    stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
    stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
    stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
    stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
    stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
    stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
    stackwise_squeeze_and_excite_ratios=[0.25] * 7,
    stackwise_force_input_filters=[0] * 7,
    stackwise_nores_option=[False] * 7,
    width_coefficient=1.0,
    depth_coefficient=1.0,
    stackwise_block_types=["v1"] * 7,
    include_stem_padding=True,
    use_depth_divisor_as_min_depth=True,
    cap_round_filter_decrease=True,
    stem_conv_padding="valid",
    batch_norm_momentum=0.99,
)
_EFFICIENTNET_V2 = _models(
    "EfficientNetBackbone",
    stackwise_kernel_sizes=[3] * 6,
    stackwise_num_repeats=[2, 2, 2, 3, 3, 3],
    stackwise_input_filters=[24, 24, 48, 64, 128, 160],
    stackwise_output_filters=[24, 48, 64, 128, 160, 256],
    stackwise_expansion_ratios=[1, 4, 4, 4, 6, 6],
    stackwise_squeeze_and_excite_ratios=[0.0, 0.0, 0, 0.25, 0.25, 0.25],
    stackwise_strides=[1, 2, 2, 2, 1, 2],
    stackwise_block_types=["fused"] * 3 + ["unfused"] * 3,
    stackwise_force_input_filters=[0] * 6,
    stackwise_nores_option=[False] * 6,
    width_coefficient=1.0,
    depth_coefficient=1.0,
)
_MIT = _models(
    "MiTBackbone",
    layerwise_depths=[2, 2],
    image_shape=(32, 32, 3),
    hidden_dims=[4, 8],
    num_layers=2,
    layerwise_num_heads=[1, 2],
    layerwise_sr_ratios=[8, 4],
    max_drop_path_rate=0.1,
    layerwise_patch_sizes=[7, 3],
    layerwise_strides=[4, 2],
)
_VIT = _models(
    "ViTBackbone",
    image_shape=(28, 28, 3),
    patch_size=(4, 4),
    num_layers=3,
    hidden_dim=48,
    num_heads=6,
    mlp_dim=192,
    use_mha_bias=True,
)
_VIT_DET = _models(
    "ViTDetBackbone",
    hidden_size=16,
    num_layers=4,
    intermediate_dim=64,
    num_heads=4,
    global_attention_layer_indices=[1, 3],
    patch_size=16,
    num_output_channels=32,
    window_size=2,
    image_shape=(128, 128, 3),
)
_DINO_V2 = _src(
    "dinov2.dinov2_backbone.DINOV2Backbone",
    *(14, 4, 16, 2, 64, 1.0, 0),
    image_shape=(126, 126, 3),
    apply_layernorm=True,
    name="image_encoder",
)
_VAE = _src("vae.vae_backbone.VAEBackbone", *([32] * 4, [1] * 4) * 2, sampler_method="mode")
_DEEPLAB = _models(
    "DeepLabV3Backbone",
    image_encoder=_resnet(),
    low_level_feature_key="P2",
    spatial_pyramid_pooling_key="P4",
    dilation_rates=[6, 12, 18],
    upsampling_size=4,
    image_shape=(96, 96, 3),
)
_RETINANET = _models(
    "RetinaNetBackbone",
    image_encoder=_four_stages("bottleneck_block"),
    min_level=3,
    max_level=7,
    use_p5=True,
)
_ANCHORS = Network(
    "keras_hub.layers.AnchorGenerator",
    {
        "bounding_box_format": "yxyx",
        "min_level": 3,
        "max_level": 7,
        "num_scales": 3,
        "aspect_ratios": [0.5, 1.0, 2.0],
        "anchor_size": 4,
    },
)
_SEGFORMER = _models("SegFormerBackbone", image_encoder=_MIT, projection_filters=32)
_DENSENET = _models(
    "DenseNetBackbone",
    stackwise_num_repeats=[2, 4, 6, 4],
    compression_ratio=0.5,
    growth_rate=2,
    image_shape=(32, 32, 3),
)
_SMALL = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
_TEXT = _SMALL | {"vocabulary_size": 10, "max_sequence_length": 64}
_LLAMA = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 8,
}

HUB: dict[str, Network] = {
    "ResNet": _resnet(),
    "ResNet bottleneck": _resnet("bottleneck_block"),
    "ResNet v2": _resnet("bottleneck_block", use_pre_activation=True),
    "ResNet v2 basic": _resnet(use_pre_activation=True),
    "ResNet vd": _resnet("bottleneck_block_vd", deep=True),
    "ResNet vd basic": _resnet("basic_block_vd", deep=True),
    "ResNet 96x96": _resnet(image_shape=(96, 96, 3)),
    "DenseNet": _DENSENET,
    "MobileNet": _MOBILENET,
    "MobileNetV5": _mobilenet_v5(),
    "MobileNetV5 attention": _mobilenet_v5(attention=True),
    "MobileNetV5 msfa": _mobilenet_v5(msfa=True),
    "EfficientNet": _EFFICIENTNET,
    "EfficientNet v2": _EFFICIENTNET_V2,
    **{
        f"CSPNet {stage} {block}": _cspnet(stage, block, **options)
        for stage, options in (
            ("csp", {}),
            ("cs3", {}),
            ("dark", {"block_ratio": (1.0,), "expand_ratio": (1.0,)}),
        )
        for block in ("dark_block", "edge_block", "bottleneck_block")
    },
    "CSPNet groups": _cspnet(
        "csp",
        "bottleneck_block",
        groups=4,
        stem_kernel_size=7,
        stem_strides=4,
        bottle_ratio=[1.0],
        block_ratio=[0.5],
        expand_ratio=[1.0],
        stem_pooling="max",
        cross_linear=True,
        avg_down=True,
    ),
    "VGG": _models(
        "VGGBackbone",
        stackwise_num_repeats=[2, 3, 3],
        stackwise_num_filters=[8, 64, 64],
        image_shape=(16, 16, 3),
    ),
    "Xception": _models(
        "XceptionBackbone",
        stackwise_conv_filters=[[32, 64], [128, 128], [256, 256]],
        stackwise_pooling=[False, True, False],
        image_shape=(None, None, 3),
    ),
    "HGNetV2": _hgnet(),
    "HGNetV2 affine": _hgnet(affine=True),
    "HGNetV2 light": _hgnet(light=True),
    "HGNetV2 any size": _hgnet(size=None),
    "HGNetV2-B4": _HGNET_B4,
    "DeepLabV3": _DEEPLAB,
    "RetinaNet": _RETINANET,
    "BASNet": _models("BASNetBackbone", image_encoder=_four_stages(), num_classes=1),
    "D-FINE": _models(
        "DFineBackbone",
        backbone=_models(
            "HGNetV2Backbone",
            stem_channels=[3, 8, 8],
            stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
            apply_downsample=[False, True],
            use_lightweight_conv_block=[False, False],
            depths=[1, 1],
            hidden_sizes=[16, 32],
            embedding_size=8,
            use_learnable_affine_block=True,
            hidden_act="relu",
            image_shape=(None, None, 3),
            out_features=["stage1", "stage2"],
        ),
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=10,
        num_labels=4,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(64, 64),
        feat_strides=[4, 8],
        num_feature_levels=2,
        encoder_in_channels=[16, 32],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=["stage1", "stage2"],
        image_shape=(64, 64, 3),
        seed=0,
    ),
    "MiT": _MIT,
    "SegFormer": _SEGFORMER,
    "ViT": _VIT,
    "DeiT": _models(
        "DeiTBackbone",
        image_shape=(28, 28, 3),
        patch_size=4,
        num_layers=3,
        hidden_dim=48,
        num_heads=6,
        intermediate_dim=192,
        use_mha_bias=True,
    ),
    "ViTDet": _VIT_DET,
    "DINOv2": _DINO_V2,
    "DINOv3": _dino_v3(num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=64, size=64),
    "DINOv3 small": _dino_v3(
        num_layers=12, hidden_dim=384, num_heads=6, intermediate_dim=1536, size=224
    ),
    "Swin": _models(
        "SwinTransformerBackbone",
        image_shape=(32, 32, 3),
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
    ),
    "DepthAnything": _models(
        "DepthAnythingBackbone",
        image_encoder=_DINO_V2,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[16, 32, 64, 128],
        fusion_hidden_dim=128,
        head_hidden_dim=16,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    ),
    "VideoPrism": _models(
        "VideoPrismBackbone",
        image_shape=(28, 28, 3),
        num_frames=4,
        patch_size=4,
        hidden_dim=16,
        intermediate_dim=32,
        num_heads=2,
        num_spatial_layers=1,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
        vocabulary_size=0,
        num_text_layers=0,
    ),
    "Stable Diffusion VAE": _VAE,
    "Stable Diffusion 3": _models(
        "StableDiffusion3Backbone",
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=192,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=_VAE,
        clip_l=_src(
            "clip.clip_text_encoder.CLIPTextEncoder",
            *(20, 32, 32, 2, 2, 64, "quick_gelu", -2),
            name="clip_l",
            max_sequence_length=64,
        ),
        clip_g=_src(
            "clip.clip_text_encoder.CLIPTextEncoder",
            *(20, 64, 64, 2, 2, 128, "gelu", -2),
            name="clip_g",
            max_sequence_length=64,
        ),
        image_shape=(64, 64, 3),
    ),
    "SAM": _models(
        "SAMBackbone",
        image_encoder=_VIT_DET,
        prompt_encoder=Network(
            "keras_hub.layers.SAMPromptEncoder",
            {
                "hidden_size": 32,
                "image_embedding_size": (8, 8),
                "input_image_size": (128, 128),
                "mask_in_channels": 16,
            },
        ),
        mask_decoder=Network(
            "keras_hub.layers.SAMMaskDecoder",
            {
                "num_layers": 2,
                "hidden_size": 32,
                "intermediate_dim": 32,
                "num_heads": 4,
                "embedding_dim": 32,
                "num_multimask_outputs": 3,
                "iou_head_depth": 3,
                "iou_head_hidden_dim": 8,
            },
        ),
    ),
    "CLIP": _models(
        "CLIPBackbone",
        vision_encoder=_src(
            "clip.clip_vision_encoder.CLIPVisionEncoder", 16, 64, 2, 2, 128, name="vision_encoder"
        ),
        text_encoder=_src(
            "clip.clip_text_encoder.CLIPTextEncoder", 64, 64, 64, 2, 2, 128, name="text_encoder"
        ),
        projection_dim=64,
    ),
    "SigLIP": _models(
        "SigLIPBackbone",
        vision_encoder=_src(
            "siglip.siglip_vision_encoder.SigLIPVisionEncoder",
            *(16, 64, 2, 2, 128),
            name="vision_encoder",
        ),
        text_encoder=_src(
            "siglip.siglip_text_encoder.SigLIPTextEncoder",
            *(64, 64, 64, 2, 2, 128),
            name="text_encoder",
        ),
    ),
    "PaliGemma": _models(
        "PaliGemmaBackbone",
        vocabulary_size=256,
        image_size=16,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
        vit_patch_size=4,
        vit_num_layers=2,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_intermediate_dim=16,
    ),
    "PARSeq": _models(
        "PARSeqBackbone",
        image_encoder=_models(
            "ViTBackbone",
            image_shape=(32, 128, 3),
            patch_size=(4, 8),
            num_layers=2,
            num_heads=2,
            hidden_dim=64,
            mlp_dim=256,
            use_class_token=False,
            name="image_encoder",
        ),
        vocabulary_size=97,
        max_label_length=64,
        decoder_hidden_dim=64,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=256,
        dropout_rate=0.0,
        attention_dropout=0.0,
    ),
    "RQ-VAE": _src(
        "rqvae.rqvae_backbone.RQVAEBackbone",
        input_dim=16,
        encoder_layer_dims=[32, 16],
        output_dim=8,
        decoder_layer_dims=[16, 32],
        num_embeddings=4,
        num_quantizers=2,
        decay=0.99,
        data_variance=1.0,
        commitment_cost=0.25,
    ),
    "ResNet classifier": _models("ResNetImageClassifier", backbone=_resnet(), num_classes=5),
    "MobileNet classifier": _models("MobileNetImageClassifier", backbone=_MOBILENET, num_classes=5),
    "EfficientNet classifier": _models(
        "EfficientNetImageClassifier", backbone=_EFFICIENTNET, num_classes=5
    ),
    "CSPNet classifier": _models(
        "CSPNetImageClassifier", backbone=_cspnet("csp", "dark_block"), num_classes=5
    ),
    "HGNetV2 classifier": _models(
        "HGNetV2ImageClassifier", backbone=_hgnet(), preprocessor=None, num_classes=5
    ),
    "ViT classifier": _models("ViTImageClassifier", backbone=_VIT, num_classes=5),
    "DeepLabV3 segmenter": _models(
        "DeepLabV3ImageSegmenter", backbone=_DEEPLAB, num_classes=5, activation=None
    ),
    "SegFormer segmenter": _models("SegFormerImageSegmenter", backbone=_SEGFORMER, num_classes=5),
    "RetinaNet detector": _models(
        "RetinaNetObjectDetector",
        backbone=_RETINANET,
        anchor_generator=_ANCHORS,
        label_encoder=_src(
            "retinanet.retinanet_label_encoder.RetinaNetLabelEncoder",
            bounding_box_format="yxyx",
            anchor_generator=_ANCHORS,
        ),
        num_classes=5,
        bounding_box_format="yxyx",
    ),
    "BERT": _models("BertBackbone", **_TEXT),
    "RoBERTa": _models("RobertaBackbone", **_TEXT),
    "DistilBERT": _models("DistilBertBackbone", **_TEXT),
    "DeBERTa v3": _models("DebertaV3Backbone", **_TEXT),
    "DeBERTa v3 base": _models(
        "DebertaV3Backbone",
        vocabulary_size=128100,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        intermediate_dim=3072,
        max_sequence_length=512,
    ),
    "ALBERT": _models(
        "AlbertBackbone", **_TEXT, num_groups=1, num_inner_repetitions=1, embedding_dim=16
    ),
    "FNet": _models(
        "FNetBackbone", **{key: value for key, value in _TEXT.items() if key != "num_heads"}
    ),
    "GPT-2": _models("GPT2Backbone", **_TEXT),
    "OPT": _models("OPTBackbone", **_TEXT),
    "BART": _models("BartBackbone", **_TEXT),
    "T5": _models("T5Backbone", vocabulary_size=10, **_SMALL),
    "Llama": _models("LlamaBackbone", **_LLAMA),
    "Gemma": _models(
        "GemmaBackbone", **_LLAMA | {"num_key_value_heads": 1, "hidden_dim": 16}, head_dim=4
    ),
    "Whisper": _models(
        "WhisperBackbone",
        **_SMALL,
        vocabulary_size=10,
        max_encoder_sequence_length=64,
        max_decoder_sequence_length=64,
    ),
    "RWKV7": _models(
        "RWKV7Backbone",
        vocabulary_size=10,
        hidden_size=16,
        num_layers=2,
        head_size=4,
        intermediate_dim=32,
        gate_lora=32,
        mv_lora=16,
        aaa_lora=16,
        decay_lora=16,
    ),
    "BERT classifier": _models(
        "BertTextClassifier", backbone=_models("BertBackbone", **_TEXT), num_classes=3
    ),
}
BLOCKS = {
    "residual": Network("blocks.residual"),
    "residual, 224 x 224": Network("blocks.residual", {"size": 224}),
    "residual, any size": Network("blocks.residual", {"size": None}),
    "residual, a class": Network("blocks.subclassed"),
    "inverted residual": Network("blocks.of_one_kind", {"kind": "InvertedResidual"}),
    "ConvNeXt": Network("blocks.of_one_kind", {"kind": "ConvNeXtBlock"}),
    "branches": Network("blocks.of_one_kind", {"kind": "Branches"}),
    "vision transformer": Network("blocks.vision_transformer"),
}
PACKAGES: dict[str, Callable[[], dict[str, Network]]] = {
    "applications": applications,
    "hub": lambda: HUB,
    "blocks": lambda: BLOCKS,
}


# --- what is measured, in a process of its own ---------------------------------------------------


def measure(package: str, name: str) -> Iterator[Row]:
    """The row of a network, part by part: what comes before an error is kept."""
    import kito  # noqa: PLC0415
    from kito.graph.keras_internals import sublayers  # noqa: PLC0415
    from kito.graph.layer import to_numpy  # noqa: PLC0415
    from kito.samples import random_inputs  # noqa: PLC0415

    model = build(package, name)
    yield {"layers": len(sublayers(model)) - 1, "bn_before": normalizations(model)}
    before = [to_numpy(weight).copy() for weight in model.weights]
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    yield {
        "bn_after": normalizations(fast),
        "rewrites": len(report.applied),
        "notes": listed(generalized(note) for note in report.notes),
    }
    if any((old != to_numpy(new)).any() for old, new in zip(before, model.weights, strict=True)):
        raise AssertionError("the weights of the source changed")
    del before
    figures = kito.compare(model, fast, random_inputs(model), repeats=1)
    yield {"difference": figures.relative}

    once_more = kito.Report()
    same = kito.optimize(fast, report=once_more)
    unchanged = not once_more.applied and len(sublayers(same)) == len(sublayers(fast))
    yield {
        "again": "ok" if unchanged else f"{len(once_more.applied)} rewrites",
        "left": listed(left_over(fast, once_more)),
    }
    del same
    yield {"saved": loads_elsewhere(package, model, fast)}
    del fast
    yield times(model)


def difference(package: str, name: str) -> float:
    """The relative difference of the answers, in the dtype policy that is in force."""
    import kito  # noqa: PLC0415
    from kito.samples import random_inputs  # noqa: PLC0415

    model = build(package, name)
    return float(
        kito.compare(model, kito.optimize(model), random_inputs(model), repeats=1).relative
    )


def build(package: str, name: str) -> Any:
    """The network with random weights and statistics."""
    import keras  # noqa: PLC0415

    from kito.testing import randomize  # noqa: PLC0415

    sys.path.insert(0, str(ROOT / "tests"))
    import networks  # noqa: PLC0415

    keras.utils.set_random_seed(1)
    model = PACKAGES[package]()[name].build()
    try:
        if not normalizations(model):
            raise ValueError("its statistics matter little")
        networks.randomize(model, seed=1)
    except Exception:  # not a network of pictures: its call in training mode may want anything
        randomize(model, seed=1)
    return model


def normalizations(model: Any) -> int:
    """How many BatchNormalization layers there are, at any depth."""
    import keras  # noqa: PLC0415

    from kito.graph.keras_internals import sublayers  # noqa: PLC0415

    return sum(isinstance(part, keras.layers.BatchNormalization) for part in sublayers(model))


def left_over(fast: Any, report: Any) -> Iterator[str]:
    """For each BatchNormalization that is left, why: the reason of a rule, or what it follows."""
    import keras  # noqa: PLC0415

    from kito.graph.ir import walk  # noqa: PLC0415
    from kito.graph.keras_internals import sublayers  # noqa: PLC0415
    from kito.graph.lift import lift  # noqa: PLC0415

    bn = keras.layers.BatchNormalization
    graphs = list(walk(lift(fast, frozenset([bn]))))
    classes = {node.layer.name: node.layer.cls.__name__ for _, graph in graphs for node in graph}
    declined = {(row.path, row.layers[-1]): row.reason for row in report.declined}
    seen = set()
    for path, graph in graphs:
        for node in graph:
            source = node.layer.source
            if node.layer in seen or not isinstance(source, keras.Layer):
                continue
            seen.add(node.layer)
            if node.layer.cls is bn:
                follows = f"follows {graph.producer(node.refs[0]).layer.cls.__name__}"
                reason = declined.get((path, node.layer.name), follows)
                yield re.sub(r"[\w.]+", lambda word: classes.get(word[0], word[0]), reason)
            elif node.layer.graph is None:
                for part in sublayers(source):
                    if isinstance(part, bn):
                        yield f"inside {node.layer.cls.__name__}"


def generalized(note: str) -> str:
    """A note of a report without what differs from layer to layer, so that they can be counted."""
    return re.sub(r" using config=.*", "", re.sub(r"^\S+ \((\w+)\)", r"\1", note))


def listed(reasons: Iterable[str]) -> str:
    """Equal reasons counted: "12 x follows Concatenate; 1 x inside Block"."""
    counts = Counter(reasons).most_common()
    return "; ".join(f"{count} x {reason}" for reason, count in counts)


def times(model: Any) -> Row:
    """Seconds of `kito.optimize` and of Keras' own copy, in turns: the least of three runs."""
    import keras  # noqa: PLC0415

    import kito  # noqa: PLC0415

    def clone(model: Any) -> None:
        keras.models.clone_model(model).set_weights(model.get_weights())

    def seconds(function: Callable[[Any], Any]) -> float:
        gc.collect()
        start = time.perf_counter()
        function(model)
        return time.perf_counter() - start

    optimizing, cloning, failure = [seconds(kito.optimize)], [], ""
    try:
        seconds(clone)
    except Exception as error:
        failure = f"fails: {type(error).__name__}"
    for _ in range(2 if optimizing[0] < 10 else 1):
        optimizing.append(seconds(kito.optimize))
        if not failure:
            cloning.append(seconds(clone))
    row: Row = {"optimize_seconds": min(optimizing), "clone_seconds": failure}
    if not failure:
        row |= {"clone_seconds": min(cloning), "ratio": min(optimizing) / min(cloning)}
    return row


# The process without kito: reads folders, one a line, and says of each "ok" or what went wrong.
LOADER = """
import pickle, sys
sys.modules["kito"] = None
import keras, numpy
if sys.argv[1] == "hub":
    import keras_hub
elif sys.argv[1] == "blocks":
    sys.path.append(sys.argv[2])
    import blocks

def load(folder):
    with open(folder + "/data.pickle", "rb") as file:
        inputs, outputs = pickle.load(file)
    model = keras.models.load_model(folder + "/model.keras", compile=False)
    found = keras.tree.flatten(model(inputs, training=False))
    for one, other in zip(outputs, map(numpy.asarray, found), strict=True):
        limit = 1e-6 * numpy.abs(one).max(initial=0)
        if one.shape != other.shape or not (numpy.abs(one - other) <= limit).all():
            raise ValueError("the outputs differ")

for line in sys.stdin:
    keras.backend.clear_session()
    try:
        load(line.strip())
        print("ok", flush=True)
    except Exception as error:
        first = f"{type(error).__name__}: {error}".strip().split(chr(10), 1)[0]
        print(first[:300], flush=True)
"""


def loads_elsewhere(package: str, model: Any, fast: Any) -> str:
    """Whether the result can be saved and loaded in a process without kito, or why not."""
    import keras  # noqa: PLC0415

    failure = _loads(package, fast)
    if not failure:
        return "ok"
    if source := _loads(package, model):
        return f"no, like the source: {source}"
    # A class that saves the arguments it was made of may hold layers that can't be saved.
    layers = _loads(package, keras.Model(model.input, model.output))
    return f"no, like its layers: {layers}" if layers else f"no: {failure}"


def _loads(package: str, model: Any) -> str:
    import pickle  # noqa: PLC0415

    import keras  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from kito.samples import random_inputs  # noqa: PLC0415

    inputs = random_inputs(model)
    outputs = [np.asarray(one) for one in keras.tree.flatten(model(inputs, training=False))]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data.pickle").write_bytes(pickle.dumps((inputs, outputs)))
        try:
            model.save(Path(folder, "model.keras"))
        except Exception as error:
            return f"saving: {_first_line(error)}"
        answer = _loader(package).ask(folder)
    return "" if answer == "ok" else f"loading: {answer}"


@cache
def _loader(package: str) -> Process:
    return Process("-c", LOADER, package, str(Path(__file__).parent))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n", 1)[0][:300]


# --- the processes, and where it is written ------------------------------------------------------


# What else a large difference is looked at with, and the environment that it needs.
ARITHMETIC: dict[str, dict[str, str]] = {"float64": {}, "plain": {"TF_ENABLE_ONEDNN_OPTS": "0"}}


class Process:
    """A Python process that gives a line of text for each line that it is given."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | (environment or {}),
        )

    def ask(self, line: str) -> str:
        """The answer to a line; an empty one if the process ended, which it may not survive."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def answer_requests(variant: str) -> None:
    """Measure the networks that stand on the standard input, until it ends.

    Args:
        variant: a key of `ARITHMETIC`, or "" for all of the row but those.
    """
    import keras  # noqa: PLC0415

    if variant == "float64":
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints
    for line in sys.stdin:
        package, name = json.loads(line)
        row: Row = {}
        signal.alarm(SECONDS)  # what hangs ends the process
        try:
            if variant:
                row[f"difference_{variant}"] = difference(package, name)
            else:
                for part in measure(package, name):
                    row |= part
        except Exception as error:
            row["error"] = _first_line(error)
        keras.backend.clear_session()
        gc.collect()
        print(json.dumps(row), file=answers, flush=True)


class Workers:
    """The processes that measure, started when they are needed."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Process] = {}

    def row(self, package: str, name: str) -> Row:
        """The row of a network; a difference that is large is looked at again."""
        row = {"package": package, "network": name, **self._ask(package, name, "")}
        if float(row.get("difference", 0)) > TOLERANCE:
            for variant in ARITHMETIC:
                row |= self._ask(package, name, variant)
        return row

    def _ask(self, package: str, name: str, variant: str) -> Row:
        key = (package, variant)
        if key not in self._running:
            self._running[key] = Process(
                __file__, f"--serve={variant}", environment=ARITHMETIC.get(variant)
            )
        answer = self._running[key].ask(json.dumps([package, name]))
        if package == "applications" or not answer:
            self._running.pop(key).close()
        row: Row = json.loads(answer) if answer else {"error": "the process ended"}
        return row

    def close(self) -> None:
        """End them all."""
        for process in self._running.values():
            process.close()


def read() -> list[Row]:
    """The rows that earlier runs wrote, if any; all values are text."""
    path = RESULTS / "zoo.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(row: Row) -> None:
    """Put a row into the file, in place of an older one, and make the table anew."""
    rows = {(old["package"], old["network"]): old for old in read()}
    rows[row["package"], row["network"]] = row
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "zoo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: old.get(name, "") for name in COLUMNS} for old in rows.values())
    (RESULTS / "zoo.md").write_text(table(read()))


def table(rows: list[Row]) -> str:
    """The contents of benchmarks/results/zoo.md."""
    lines = [
        "# The zoo\n\n`nox -s zoo` writes this file. Differences are of the largest output.\n",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(_cell(name, row[name]) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(column: str, text: str) -> str:
    kind = ".1e" if column.startswith("difference") else ""
    if column == "ratio" or column.endswith("_seconds"):
        kind = ".2f"
    try:
        return format(float(text), kind) if kind else text.replace("|", "\\|")
    except ValueError:
        return text


@click.command()
@click.option("--package", type=click.Choice(list(PACKAGES)), help="One package only.")
@click.option("--only", multiple=True, help="Networks with this in their name, measured again.")
@click.option("--retry", is_flag=True, help="Measure again what had an error.")
@click.option("--serve", hidden=True)
def main(package: str | None, only: tuple[str, ...], retry: bool, serve: str | None) -> None:
    """Measure the networks and write the figures down."""
    if serve is not None:
        answer_requests(serve)
        return
    done = {(row["package"], row["network"]) for row in read() if not (retry and row["error"])}
    tasks = [
        (source, name)
        for source in ([package] if package else PACKAGES)
        for name in PACKAGES[source]()
        if (any(part in name for part in only) if only else (source, name) not in done)
    ]
    console, workers = Console(soft_wrap=True), Workers()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(tasks))
        for source, name in tasks:
            progress.update(bar, description=f"{source}: {name}")
            row = workers.row(source, name)
            write(row)
            console.print(
                f"{name:36} BN {row.get('bn_before')} -> {row.get('bn_after')}, difference "
                f"{row.get('difference', float('nan')):.1e}, {row.get('error', 'done')}",
                highlight=False,
            )
            progress.advance(bar)
    workers.close()
    console.print(f"written to {RESULTS.relative_to(ROOT)}/zoo.csv and zoo.md")


if __name__ == "__main__":
    main()
