"""Tests of loop.schedules."""
