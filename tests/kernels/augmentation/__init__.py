"""Tests of kernels.augmentation."""
