"""Averages of the weights: exponential moving averages, Lookahead."""
