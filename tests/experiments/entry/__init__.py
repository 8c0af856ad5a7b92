"""Tests of experiments.entry."""
