"""Tests of loop.feeds."""
