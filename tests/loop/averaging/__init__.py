"""Tests of loop.averaging."""
