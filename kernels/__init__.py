"""Maths on tensors: no variables, no flags, no input or output."""

import tapestep

tapestep.check("kernels")

from kernels.activations import gelu
from kernels.attention import causal_attention
from kernels.augmentation.affine import affine_transform
from kernels.augmentation.affine_maps import affine_matrices
from kernels.augmentation.augment import Augmentation
from kernels.augmentation.boxes import box_mask, cutout
from kernels.augmentation.color import adjust_brightness, adjust_contrast, adjust_saturation
from kernels.augmentation.mixing import beta, cutmix, mixed_one_hot, mixup
from kernels.clipping import (
    AdaptiveClip,
    ClipByGlobalNorm,
    ClipByNorm,
    ClipByValue,
    Clipped,
    global_norm,
)
from kernels.convolution import conv2d, depthwise_conv2d
from kernels.embedding import embedding_lookup
from kernels.losses import (
    huber,
    sigmoid_cross_entropy,
    sigmoid_focal,
    softmax_cross_entropy,
    softmax_cross_entropy_soft,
)
from kernels.normalization.batch_norm import Moments, batch_norm_inference, batch_norm_training
from kernels.normalization.layer_norm import layer_norm, rms_norm
from kernels.pooling import avg_pool2d, max_pool2d
from kernels.windows import Padding

__all__ = [
    "AdaptiveClip",
    "Augmentation",
    "ClipByGlobalNorm",
    "ClipByNorm",
    "ClipByValue",
    "Clipped",
    "Moments",
    "Padding",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "affine_matrices",
    "affine_transform",
    "avg_pool2d",
    "batch_norm_inference",
    "batch_norm_training",
    "beta",
    "box_mask",
    "causal_attention",
    "conv2d",
    "cutmix",
    "cutout",
    "depthwise_conv2d",
    "embedding_lookup",
    "gelu",
    "global_norm",
    "huber",
    "layer_norm",
    "max_pool2d",
    "mixed_one_hot",
    "mixup",
    "rms_norm",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "softmax_cross_entropy",
    "softmax_cross_entropy_soft",
]
