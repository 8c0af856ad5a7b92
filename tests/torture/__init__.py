"""Long runs of faults, caused for real; `make torture` runs them and prints their counts."""
