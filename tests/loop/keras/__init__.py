"""Tests of loop.keras."""
