"""Tests of loop.optimizers."""
