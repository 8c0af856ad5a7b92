"""Maths on tensors: no variables, no flags, no input or output."""
