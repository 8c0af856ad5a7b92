"""Tests of loop.checkpoint."""
