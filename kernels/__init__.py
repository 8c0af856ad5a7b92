"""Maths on tensors: no variables, no flags, no input or output."""

from kernels.batch_norm import Moments, batch_norm_inference, batch_norm_training
from kernels.clipping import (
    AdaptiveClip,
    ClipByGlobalNorm,
    ClipByNorm,
    ClipByValue,
    Clipped,
    global_norm,
)
from kernels.convolution import conv2d, depthwise_conv2d
from kernels.losses import (
    huber,
    sigmoid_focal,
    softmax_cross_entropy,
    softmax_cross_entropy_soft,
)
from kernels.pooling import avg_pool2d, max_pool2d
from kernels.windows import Padding

__all__ = [
    "AdaptiveClip",
    "ClipByGlobalNorm",
    "ClipByNorm",
    "ClipByValue",
    "Clipped",
    "Moments",
    "Padding",
    "avg_pool2d",
    "batch_norm_inference",
    "batch_norm_training",
    "conv2d",
    "depthwise_conv2d",
    "global_norm",
    "huber",
    "max_pool2d",
    "sigmoid_focal",
    "softmax_cross_entropy",
    "softmax_cross_entropy_soft",
]
