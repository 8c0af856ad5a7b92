"""How the parts of a measurement become one result."""

from experiments.benchmark.measurement import whole


def test_parts_are_put_together() -> None:
    """Lists grow in order, our own versions are not replaced by a contender's, the rest is new."""
    result = {"rows": [1], "versions": {"numpy": "ours"}, "rounds": 5}
    parts = [
        {"rows": [2, 3], "versions": {"numpy": "theirs", "jax": "1"}},
        {"rows": [4], "missing": ["torch"], "rounds": 7},
    ]
    assert whole(parts, result) == {
        "rows": [1, 2, 3, 4],
        "versions": {"numpy": "ours", "jax": "1"},
        "missing": ["torch"],
        "rounds": 7,
    }
