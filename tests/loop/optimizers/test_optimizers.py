"""What every optimizer owes the loop: slots, names, skipped updates, masks, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kernels import target
from loop import optimizers

_MAKERS = {
    "SGD": lambda **options: optimizers.SGD(0.1, **options),
    "Momentum": lambda **options: optimizers.Momentum(0.1, nesterov=True, **options),
    "Adam": lambda **options: optimizers.Adam(0.1, **options),
    "Adam, lazy": lambda **options: optimizers.Adam(0.1, sparse="lazy", **options),
    "AdamW": lambda **options: optimizers.AdamW(0.1, **options),
    "AMSGrad": lambda **options: optimizers.AMSGrad(0.1, **options),
    "Nadam": lambda **options: optimizers.Nadam(0.1, sparse="lazy", **options),
    "Adagrad": lambda **options: optimizers.Adagrad(0.1, **options),
    "Adadelta": lambda **options: optimizers.Adadelta(0.1, weight_decay=0.1, **options),
    "RMSProp": lambda **options: optimizers.RMSProp(
        0.1, momentum=0.5, epsilon=1e-2, centered=True, **options
    ),
    "Lion": lambda **options: optimizers.Lion(0.1, **options),
    "LARS": lambda **options: optimizers.LARS(0.1, weight_decay=0.1, **options),
    "LAMB": lambda **options: optimizers.LAMB(0.1, weight_decay=0.1, **options),
    "Muon": lambda **options: optimizers.Muon(0.1, exclude=["table"], **options),
}
_ZERO = tf.constant(0, tf.int64)


def _variables(dtype=tf.float32):
    rng = np.random.default_rng(5)
    return [
        tf.Variable(tf.cast(rng.normal(0.3, 1, shape), dtype), name=name)
        for name, shape in {"dense/kernel": (4, 3), "dense/bias": (3,), "table": (6, 2)}.items()
    ]


def _gradients(step=0, dtype=tf.float32):
    rng = np.random.default_rng(100 + step)
    draw = lambda *shape: tf.cast(rng.normal(0.2, 1, shape), dtype)  # noqa: E731
    slices = tf.IndexedSlices(draw(3, 2), tf.constant([4, 1, 4]), tf.constant([6, 2]))
    return [draw(4, 3), draw(3), slices]


def _values(optimizer, variables):
    everything = {variable.name: variable for variable in variables} | optimizer.state
    return {name: variable.numpy() for name, variable in everything.items()}


def _apply(optimizer, compiler):
    def apply(gradients, finite=None):
        with target.tracing_for(compiler):
            optimizer.apply(gradients, global_step=_ZERO, finite=finite)

    if compiler == "eager":
        return apply
    return tf.function(apply, jit_compile=compiler == "xla", autograph=False)


# The choice of new or old is made in one place for all families; XLA's compiler is slow.
_SKIPS = [(name, "graph") for name in _MAKERS] + [
    (name, compiler) for name in ("Adam", "Adam, lazy", "LAMB") for compiler in ("eager", "xla")
]


@pytest.mark.parametrize(("name", "compiler"), _SKIPS)
def test_a_step_that_is_not_finite_changes_nothing(name, compiler):
    """Weights, slots and count keep their bits, and the next update is as if it had not been."""
    optimizer, skipping = _MAKERS[name](), _MAKERS[name]()
    variables, others = _variables(), _variables()
    optimizer.build(variables)
    skipping.build(others)
    plain, guarded = _apply(optimizer, compiler), _apply(skipping, compiler)
    plain(_gradients(0), tf.constant(True))
    guarded(_gradients(0), tf.constant(True))
    before = _values(skipping, others)
    bad = _gradients(1)
    bad[0] *= np.nan
    guarded(bad, tf.constant(False))
    after = _values(skipping, others)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    plain(_gradients(2), tf.constant(True))
    guarded(_gradients(2), tf.constant(True))
    expected = _values(optimizer, variables)
    for name, value in _values(skipping, others).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert skipping.state["update_count"].numpy() == 2


_DENSE = {
    **{name: maker for name, maker in _MAKERS.items() if name not in ("Muon", "LARS", "LAMB")},
    "Momentum, plain": lambda: optimizers.Momentum(0.1),
    "Adam, no epsilon": lambda: optimizers.Adam(0.1, epsilon=0.0),
    "Adadelta, epsilon": lambda: optimizers.Adadelta(0.1, epsilon=1e-50),  # 0 in float32
    "Adagrad, epsilon": lambda: optimizers.Adagrad(0.1, epsilon=0.1),
    "RMSProp, plain": lambda: optimizers.RMSProp(0.1, epsilon=0.0),
    "RMSProp, centered": lambda: optimizers.RMSProp(0.1, centered=True),
}


@pytest.mark.parametrize("shape", [(5, 3), (130, 127), (300, 110)], ids=["plain", "fused", "large"])
@pytest.mark.parametrize("name", _DENSE)
def test_a_dense_update_is_skipped_by_a_branch_only_if_large(name, shape):
    """At the first update and at a later one; the infinite and the NaN reach no slot."""
    rng = np.random.default_rng(8)
    variable = tf.Variable(rng.normal(0.3, 1, shape).astype(np.float32), name="kernel")
    optimizer = _DENSE[name]()
    optimizer.build([variable])

    def traced(gradient, finite):
        with target.tracing_for("graph"):
            optimizer.apply([gradient], global_step=_ZERO, finite=finite)

    apply = tf.function(traced, autograph=False)
    good = tf.constant(rng.normal(0.2, 1, shape), tf.float32)
    bad = tf.where(good > 1, np.inf, tf.where(good < -1, np.nan, good))
    for updates in range(2):
        before = _values(optimizer, [variable])
        apply(bad, tf.constant(False))
        for key, value in _values(optimizer, [variable]).items():
            np.testing.assert_array_equal(value, before[key], err_msg=f"{key}, {updates} updates")
        apply(good, tf.constant(True))
        after = _values(optimizer, [variable])
        assert any(not np.array_equal(after[key], before[key]) for key in before)
    graph = apply.get_concrete_function(good, tf.constant(True)).graph
    kinds = {operation.type for operation in graph.get_operations()}
    branch = "StatelessIf" in kinds or "If" in kinds
    assert branch == (shape == (300, 110) or name == "RMSProp")  # whose momentum is itself a step


def test_a_large_dense_update_on_a_gpu_has_no_branch():
    """There a branch would wait for the check to reach the host."""
    variable = tf.Variable(tf.ones([300, 110]), name="kernel")
    optimizer = optimizers.Adam(0.1)
    optimizer.build([variable])
    for device, branch in (("cpu", True), ("gpu", False)):

        def traced(gradient, finite, device=device):
            with target.tracing_for("graph", device):
                optimizer.apply([gradient], global_step=_ZERO, finite=finite)

        graph = (
            tf.function(traced, autograph=False)
            .get_concrete_function(tf.ones([300, 110]), tf.constant(True))
            .graph
        )
        kinds = {operation.type for operation in graph.get_operations()}
        assert bool({"If", "StatelessIf"} & kinds) == branch


@pytest.mark.parametrize("make", _MAKERS.values(), ids=_MAKERS)
def test_half_types_keep_float32_slots(make):
    """A bfloat16 variable is updated in float32 and rounded once."""
    halves, singles = _variables(tf.bfloat16), _variables(tf.bfloat16)
    singles = [tf.Variable(tf.cast(v, tf.float32), name=v.name[:-2]) for v in singles]
    low, high = make(), make()
    low.build(halves)
    high.build(singles)
    _apply(low, "graph")(_gradients(0, tf.bfloat16))
    _apply(high, "graph")(
        [
            tf.cast(g, tf.float32)
            if not isinstance(g, tf.IndexedSlices)
            else tf.IndexedSlices(tf.cast(g.values, tf.float32), g.indices)
            for g in _gradients(0, tf.bfloat16)
        ]
    )
    for slot in low.state.values():
        assert slot.dtype in (tf.float32, tf.int64)
    for half, single in zip(halves, singles, strict=True):
        assert half.dtype == tf.bfloat16
        # One unit in the last place: duplicate rows are summed in bfloat16 before the rule.
        np.testing.assert_allclose(
            tf.cast(half, tf.float32), tf.cast(tf.cast(single, tf.bfloat16), tf.float32), rtol=0.008
        )


def test_state_is_named_after_the_variables():
    """Slots are "<variable name>/<slot>", for Keras variables by path, each in the right dtype."""
    layer = keras.layers.Dense(2, name="head")
    layer.build((None, 3))
    double = tf.Variable(tf.zeros([3], tf.float64), name="scale")
    optimizer = optimizers.Adam()
    assert optimizer.state == {}
    optimizer.build([*layer.trainable_variables, double])
    assert sorted(optimizer.state) == [
        "head/bias/m", "head/bias/v", "head/kernel/m", "head/kernel/v",
        "scale/m", "scale/v", "update_count",
    ]  # fmt: skip
    assert optimizer.state["scale/v"].dtype == tf.float64
    assert optimizer.state["head/kernel/m"].shape == (3, 2)
    assert optimizer.state["update_count"].dtype == tf.int64


def test_none_and_frozen_variables_are_left_alone():
    """A None gradient spares variable and slots; a frozen variable has no slots at all."""
    variables = _variables()
    optimizer = optimizers.Adam(frozen=["^dense/kernel$"])
    optimizer.build(variables)
    before = _values(optimizer, variables)
    optimizer.apply([_gradients()[0], None, _gradients()[2]], global_step=_ZERO)
    after = _values(optimizer, variables)
    assert optimizer.is_frozen("dense/kernel")
    assert not any(name.startswith("dense/kernel/") for name in optimizer.state)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"table:0", "table/m", "table/v", "update_count"}


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_multipliers_and_decay_masks_act_by_name(compiler):
    """A multiplier is another learning rate; decay reaches the variables that the mask names."""
    variables = _variables()
    optimizer = optimizers.SGD(
        0.1, weight_decay=0.5, weight_decay_mask="kernel|table", multipliers={"dense": 3, "bias": 2}
    )
    optimizer.build(variables)
    weights = [variable.numpy() for variable in variables]
    _apply(optimizer, compiler)(_gradients())
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in _gradients()]
    looked_up = np.array([0, 1, 0, 0, 1, 0])[:, None]  # a lazy gradient decays its own rows
    factors = [(0.3, 0.5), (0.6, 0.0), (0.1, 0.5 * looked_up)]
    for variable, weight, gradient, (rate, decay) in zip(
        variables, weights, gradients, factors, strict=True
    ):
        expected = weight - rate * decay * weight - rate * gradient
        np.testing.assert_allclose(variable, expected, rtol=1e-6, atol=1e-6, err_msg=variable.name)


def test_a_function_masks_decay():
    """A mask may be a function of the name."""
    variables = _variables()
    optimizer = optimizers.SGD(
        0.1, weight_decay=0.5, weight_decay_mask=lambda name: name == "dense/bias"
    )
    optimizer.build(variables)
    bias = variables[1].numpy()
    kernel = variables[0].numpy()
    zeros = [tf.zeros_like(variable) for variable in variables]
    optimizer.apply(zeros, global_step=_ZERO)
    np.testing.assert_allclose(variables[1], 0.95 * bias, rtol=1e-6)
    np.testing.assert_array_equal(variables[0], kernel)


def test_bias_correction_counts_updates_not_time():
    """Adam's first update moves by the learning rate whatever the global step says."""
    variable = tf.Variable([1.0, -2.0], name="w")
    optimizer = optimizers.Adam(0.25, beta2=0.999999, epsilon=0.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant([0.3, -7.0])], global_step=tf.constant(12_345, tf.int64))
    np.testing.assert_allclose(variable, [0.75, -1.75], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 10, 1000, 2**24, 2**24 + 1, 2**31 - 2, 2**31 + 5])
def test_bias_correction_is_exact_at_any_count(count):
    """After `count` updates the correction is that of float64 arithmetic, 2^31 included."""
    variable = tf.Variable(tf.zeros([1], tf.float64), name="w")
    optimizer = optimizers.Adam(0.001, beta1=0.9, beta2=0.999999, epsilon=0.0)
    optimizer.build([variable])
    optimizer.state["update_count"].assign(count)
    optimizer.apply([tf.constant([2.0], tf.float64)], global_step=_ZERO)
    t = np.longdouble(count + 1)
    correct = lambda beta: -np.expm1(t * np.log(np.longdouble(beta)))  # noqa: E731
    moments = np.longdouble(0.1) * 2, np.longdouble(1 - 0.999999) * 4
    step = 0.001 * moments[0] / correct(0.9) / np.sqrt(moments[1] / correct(0.999999))
    np.testing.assert_allclose(variable.numpy()[0], -float(step), rtol=1e-9)


def test_muon_refuses_rows_of_a_matrix():
    """A sparse gradient of a matrix that Muon trains says which pattern to exclude."""
    variables = _variables()
    optimizer = optimizers.Muon()
    optimizer.build(variables)
    with pytest.raises(ValueError, match="the gradient of 'table' is sparse"):
        optimizer.apply(_gradients(), global_step=_ZERO)


def test_trust_ratios_are_masked_by_name():
    """LARS leaves the learning rate of the variables outside adapt_mask alone."""
    variables = _variables()
    optimizer = optimizers.LARS(0.5, 0.0, adapt_mask="kernel|table")
    optimizer.build(variables)
    kernel, bias = variables[0].numpy(), variables[1].numpy()
    gradients = _gradients()
    optimizer.apply(gradients, global_step=_ZERO)
    ratio = 0.001 * np.linalg.norm(kernel) / np.linalg.norm(gradients[0])
    np.testing.assert_allclose(variables[0], kernel - 0.5 * ratio * gradients[0], rtol=1e-5)
    np.testing.assert_allclose(variables[1], bias - 0.5 * gradients[1], rtol=1e-6)


def test_build_refuses_what_would_fail_later():
    """Shared names, useless patterns, other variables and tracing are errors of build."""
    variables = _variables()
    with pytest.raises(ValueError, match="shared by several variables, the first 'a'"):
        optimizers.SGD().build([tf.Variable([1.0], name="a"), tf.Variable([2.0], name="a")])
    with pytest.raises(ValueError, match="frozen pattern 'nothing' matches none of the 3"):
        optimizers.SGD(frozen=["nothing"]).build(variables)
    with pytest.raises(ValueError, match="multipliers pattern 'nothing' matches none"):
        optimizers.SGD(multipliers={"nothing": 2.0}).build(variables)
    with pytest.raises(ValueError, match="all 3 variables are frozen"):
        optimizers.SGD(frozen=["."]).build(variables)
    with pytest.raises(TypeError, match="'n' must be of a float dtype"):
        optimizers.SGD().build([tf.Variable([1], name="n")])
    optimizer = optimizers.SGD()
    optimizer.build(variables)
    optimizer.build(variables)
    with pytest.raises(ValueError, match="was built with 3 variables and now got 2 others"):
        optimizer.build(variables[:2])
    with pytest.raises(RuntimeError, match=r"inside a tf\.function"):
        tf.function(lambda: optimizers.SGD().build(variables), autograph=False)()


def test_apply_refuses_gradients_that_do_not_fit():
    """Another count, another shape, nothing but None, or no build: a line that says so."""
    variables, gradients = _variables(), _gradients()
    rows = tf.IndexedSlices(tf.zeros([2, 3]), tf.constant([0, 1]))
    optimizer = optimizers.Momentum()
    with pytest.raises(RuntimeError, match="call build"):
        optimizer.apply(gradients, global_step=_ZERO)
    optimizer.build(variables)
    with pytest.raises(ValueError, match="got 2 gradients for 3 variables"):
        optimizer.apply(gradients[:2], global_step=_ZERO)
    with pytest.raises(ValueError, match=r"gradient of 'dense/kernel' has shape \(3,\)"):
        optimizer.apply([gradients[1], *gradients[1:]], global_step=_ZERO)
    with pytest.raises(ValueError, match=r"gradient of 'table' has shape \(6, 3\)"):
        optimizer.apply([*gradients[:2], rows], global_step=_ZERO)
    with pytest.raises(ValueError, match="all 3 gradients are None"):
        optimizer.apply([None] * 3, global_step=_ZERO)
    frozen = optimizers.SGD(frozen=["^dense/kernel$"])
    frozen.build(variables)
    with pytest.raises(ValueError, match="all 2 gradients are None"):
        frozen.apply([gradients[0], None, None], global_step=_ZERO)
    assert frozen.state["update_count"] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD(-0.1), "-0.1"),
        (lambda: optimizers.SGD(float("nan")), "nan"),
        (lambda: optimizers.SGD(weight_decay=-1), "weight_decay must be at least 0"),
        (lambda: optimizers.Momentum(momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda: optimizers.Adam(beta1=1.5), "beta1 must be at least 0 and below 1, got 1.5"),
        (lambda: optimizers.AdamW(epsilon=-1e-8), "AdamW: epsilon must be at least 0"),
        (lambda: optimizers.SGD(sparse="dense"), "sparse must be 'lazy' or 'exact', got 'dense'"),
        (lambda: optimizers.LARS(sparse="lazy"), "LARS: sparse must be 'exact', got 'lazy'"),
        (lambda: optimizers.Muon(iterations=0), "Muon: iterations must be at least 1"),
        (lambda: optimizers.RMSProp(rho=1.0), "RMSProp: rho must be at least 0 and below 1"),
        (lambda: optimizers.Adagrad(initial_accumulator=0.0), "both 0"),
        (lambda: optimizers.Adadelta(epsilon=0.0), "Adadelta: epsilon is 0"),
        (lambda: optimizers.SGD(frozen=["("]), "frozen must hold regular expressions"),
        (lambda: optimizers.SGD(frozen="kernel"), "frozen must be a sequence of patterns"),
        (lambda: optimizers.SGD(multipliers={"a": -1}), "multipliers"),
        (lambda: optimizers.SGD(weight_decay_mask=3), "weight_decay_mask"),
    ],
)
def test_bad_arguments_raise_at_construction(make, message):
    """An argument out of range is named with its value where it is given."""
    with pytest.raises((ValueError, TypeError), match=message):
        make()
