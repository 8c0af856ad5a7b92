"""Contender tapestep_bf16: ours with its computation in bfloat16, variables in float32."""

import functools

from experiments.benchmark.peers import tapestep, worker

if __name__ == "__main__":
    worker.serve(functools.partial(tapestep.Tapestep, precision="mixed_bfloat16"))
