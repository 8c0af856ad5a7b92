"""Tests of loop.compiled."""
