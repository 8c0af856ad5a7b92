"""Tests of loop.metrics."""
