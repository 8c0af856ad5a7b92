"""The benchmarks: the steps race against other frameworks, the kernels, the replicas."""
