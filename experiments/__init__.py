"""absl-flag binaries built on loop and kernels."""

import tapestep

tapestep.check("experiments", "loop", "kernels")
