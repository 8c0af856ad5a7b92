"""Normalisation over the batch, the layer, the root mean square."""
