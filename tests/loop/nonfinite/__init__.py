"""Tests of loop.nonfinite."""
