"""Tests of loop.evaluation."""
