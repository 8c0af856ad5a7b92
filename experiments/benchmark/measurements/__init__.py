"""The measurements, each a question with its workload; `experiments.benchmark` runs them."""
