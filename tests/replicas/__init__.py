"""Replicas that must change nothing but the speed."""
