"""Tests of experiments.training."""
