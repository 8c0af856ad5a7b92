"""Tests of loop.analysis."""
