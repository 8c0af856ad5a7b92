"""Tests of loop.layers."""
