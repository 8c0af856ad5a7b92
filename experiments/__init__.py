"""absl-flag binaries built on loop and kernels."""
