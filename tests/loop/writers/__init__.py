"""Tests of loop.writers."""
