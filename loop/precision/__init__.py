"""The dtypes a step computes in, and the scale that keeps a half type's gradients from zero."""
