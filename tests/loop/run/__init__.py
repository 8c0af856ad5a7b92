"""Tests of loop.run."""
