"""Tests of experiments.benchmark."""
