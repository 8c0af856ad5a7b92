"""Tests of loop.actions."""
