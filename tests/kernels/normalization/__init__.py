"""Tests of kernels.normalization."""
