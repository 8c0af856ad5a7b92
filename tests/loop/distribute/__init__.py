"""Tests of loop.distribute."""
