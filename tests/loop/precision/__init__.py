"""Tests of loop.precision."""
