"""The cost model of several replicas: what its parameters are fitted from, and what it predicts."""

import pytest

from experiments.benchmark import scaling


def _measured() -> dict[str, scaling.Values]:
    """Of a machine that the model describes exactly.

    A step is 2 ms and 0.1 ms an example on one busy core; an all-reduce is 0.5 ms and 1 ms a MiB;
    gradients are 1 MiB.
    """
    found: dict[str, scaling.Values] = {kind: {} for kind in scaling._KINDS}
    for name in ("cnn", "mlp"):
        for batch in (128, 64, 32):
            found["1 replica"][f"{name} {batch}"] = 2 + 0.1 * batch
        for values in found.values():
            values |= {f"{name} busy": 1.0, f"{name} bytes": 2**20}
        for kind, count in (("2 replicas", 2), ("4 replicas", 4), ("2 workers", 2)):
            # Two cores share the work.
            found[kind][f"{name} 128"] = (2 * count + 12.8) / 2 + 0.5 + 1
    for size in (2**12, 2**18, 2**20, 2**22):
        for kind in ("2 replicas", "4 replicas", "2 workers"):
            found[kind][f"reduce {size}"] = 0.5 + (size - 2**12) / 2**20
    return found


def test_an_exact_machine_is_predicted_exactly() -> None:
    """Parameters come back as they were, and each prediction is what was measured."""
    found = {row["quantity"]: row["value"] for row in scaling.rows([_measured()], cores=2)}
    assert found["cnn: fixed, ms"] == pytest.approx(2.0)
    assert found["mlp: an example, ms"] == pytest.approx(0.1)
    assert found["4 replicas: all-reduce latency, ms"] == pytest.approx(0.5)
    assert found["2 workers: all-reduce a MiB, ms"] == pytest.approx(1.0)
    ratios = [value for name, value in found.items() if name.endswith("predicted / measured")]
    assert ratios == pytest.approx([1.0] * 6)
