"""Schedules against float64 truths, `tf.compat.v1.train` and Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from loop import schedules

BIG = [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1]


def _half_wave(fraction):
    # In NumPy's long double, so that the truth's own cancellation stays out of it.
    fraction = np.asarray(fraction, np.longdouble)
    return (1 + np.cos(np.longdouble(np.pi) * fraction)) / 2


def _restarts(step, first, t_mul, m_mul):
    begin, length, height = 0, first, 1.0
    while step >= begin + length:
        begin, length, height = begin + length, length * t_mul, height * m_mul
    return height * float(_half_wave((step - begin) / length))


def _polynomial_cycle(step, steps, power):
    total = steps * max(1, -(-step // steps))
    return (0.2 - 0.01) * ((total - step) / total) ** power + 0.01


def _one_cycle(step, wave):
    low, final = 2.0 / 25, 2.0 / 25 / 1e4
    if step < 300:
        return low + (2.0 - low) * wave(step / 300)
    return final + (2.0 - final) * wave((1000 - min(step, 1000)) / 700)


# name: (schedule, float64 truth of a Python int step, steps worth a look besides BIG).
CASES = {
    "constant": (schedules.constant(0.3), lambda _: 0.3, [0, 1]),
    "exponential": (
        schedules.exponential_decay(0.1, 1000, 0.96),
        lambda s: 0.1 * 0.96 ** (s / 1000),
        [0, 1, 999, 1000, 1001],
    ),
    "staircase": (
        schedules.exponential_decay(0.1, decay_steps=2**20, decay_rate=0.96, staircase=True),
        lambda s: 0.1 * 0.96 ** (s // 2**20),
        [0, 1, 2**20 - 1, 2**20, 2**20 + 1],
    ),
    "step": (
        schedules.step_decay(0.1, drop=0.5, every=2**30),
        lambda s: 0.1 * 0.5 ** (s // 2**30),
        [0, 1, 2**30 - 1, 2**30, 2**30 + 1],
    ),
    "natural_exp": (
        schedules.natural_exp_decay(0.1, 10**9, 0.7),
        lambda s: 0.1 * np.exp(-0.7 * s / 1e9),
        [0, 1],
    ),
    "natural_exp_staircase": (
        schedules.natural_exp_decay(0.1, 2**24, 0.7, staircase=True),
        lambda s: 0.1 * np.exp(-0.7 * (s // 2**24)),
        [0, 1],
    ),
    "inverse_time": (
        schedules.inverse_time_decay(0.1, 100, 0.5),
        lambda s: 0.1 / (1 + 0.5 * s / 100),
        [0, 1, 99, 100, 101],
    ),
    "inverse_time_staircase": (
        schedules.inverse_time_decay(0.1, 2**24, 0.5, staircase=True),
        lambda s: 0.1 / (1 + 0.5 * (s // 2**24)),
        [0, 1],
    ),
    "polynomial": (
        schedules.polynomial_decay(0.2, 2**24, 0.01, power=2.0),
        lambda s: (0.2 - 0.01) * (1 - min(s, 2**24) / 2**24) ** 2.0 + 0.01,
        [0, 1],
    ),
    "polynomial_cycle": (
        schedules.polynomial_decay(0.2, 2**24, 0.01, power=0.5, cycle=True),
        lambda s: _polynomial_cycle(s, 2**24, 0.5),
        [0, 1, 2**25 - 1, 2**25, 2**25 + 1],
    ),
    "cosine": (
        schedules.cosine_decay(0.1, 2**24 + 1),
        lambda s: 0.1 * _half_wave(min(s, 2**24 + 1) / np.longdouble(2**24 + 1)),
        [0, 1, 2**23],
    ),
    "cosine_alpha": (
        schedules.cosine_decay(0.1, 1e3, alpha=0.1),
        lambda s: 0.1 * (0.9 * _half_wave(min(s, 1000) / 1000) + 0.1),
        [0, 1, 400, 999, 1000, 1001],
    ),
    "restarts": (
        schedules.cosine_decay_restarts(0.1, 2**23, t_mul=1.0, m_mul=0.8),
        lambda s: 0.1 * _restarts(s, 2**23, 1, 0.8),
        [0, 1, 2**23 - 1, 2**23, 2**23 + 1],
    ),
    "restarts_doubling": (
        schedules.cosine_decay_restarts(0.1, 7, t_mul=2.0, m_mul=0.9, alpha=0.2),
        lambda s: 0.1 * (0.8 * _restarts(s, 7, 2, 0.9) + 0.2),
        [0, 1, 6, 7, 8, 20, 21, 22, 7 * (2**22 - 1) - 1, 7 * (2**22 - 1), 7 * (2**22 - 1) + 1],
    ),
    "linear_cosine": (
        schedules.linear_cosine_decay(0.1, 1000, num_periods=1.5, alpha=0.1, beta=0.01),
        lambda s: 0.1 * ((1.1 - min(s, 1000) / 1000) * _half_wave(3 * min(s, 1000) / 1000) + 0.01),
        [0, 1, 333, 999, 1000, 1001],
    ),
    "one_cycle": (
        schedules.one_cycle(2.0, 1000),
        lambda s: _one_cycle(s, lambda left: float(_half_wave(1 - left))),
        [0, 1, 150, 299, 300, 301, 700, 999, 1000, 1001],
    ),
    "one_cycle_linear": (
        schedules.one_cycle(2.0, 1000, anneal="linear"),
        lambda s: _one_cycle(s, lambda left: left),
        [0, 1, 299, 300, 301, 999, 1000, 1001],
    ),
    "piecewise": (
        schedules.piecewise_constant([10, 2**24, 2**31], [0.1, 0.02, 0.3, 0.004]),
        lambda s: [0.1, 0.02, 0.3, 0.004][sum(s > b for b in (10, 2**24, 2**31))],
        [0, 1, 9, 10, 11],
    ),
    "warmup": (
        schedules.linear_warmup(
            schedules.exponential_decay(0.1, 2**24, 0.5, staircase=True), 2**24, initial=0.02
        ),
        lambda s: 0.02 + 0.08 * s / 2**24 if s < 2**24 else 0.1 * 0.5 ** ((s - 2**24) // 2**24),
        [0, 1],
    ),
    "warmup_unshifted": (
        schedules.linear_warmup(schedules.step_decay(0.4, 0.5, 80), 100, shift=False),
        lambda s: 0.4 * 0.5 ** (s // 80) * min(s / 100, 1),
        [0, 1, 79, 80, 81, 99, 100, 101],
    ),
    "join": (
        schedules.join([0.5, schedules.step_decay(0.4, 0.5, 2**24), 0.003], [5, 2**31]),
        lambda s: 0.5 if s < 5 else 0.4 * 0.5 ** ((s - 5) // 2**24) if s < 2**31 else 0.003,
        [0, 1, 4, 5, 6, 2**24 + 4, 2**24 + 5],
    ),
}
# Below the smallest normal float32 the compilers may flush to zero.
TINY = 1e-37


def _evaluate_all(steps):
    """Each case's schedule at each of `steps`, one float32 vector a case."""
    return {
        name: tf.map_fn(schedule, steps, fn_output_signature=tf.float32)
        for name, (schedule, _, _) in CASES.items()
    }


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_compiled_schedules_equal_float64_truth(jit):
    """At 0, 1, every boundary and its neighbours and around 2**24 and 2**31, in graph and XLA."""
    steps = sorted({s for _, _, special in CASES.values() for s in special} | set(BIG))
    got = tf.function(_evaluate_all, jit_compile=jit)(tf.constant(steps, tf.int64))
    for name, (_, truth, _) in CASES.items():
        want = np.array([truth(step) for step in steps], np.float64)
        np.testing.assert_allclose(
            got[name].numpy(), want, rtol=1e-6, atol=TINY, err_msg=f"{name} at {steps}"
        )


@pytest.mark.parametrize("name", CASES)
def test_eager_schedules_equal_float64_truth(name):
    """Python ints, int64 and int32 tensors and variables give the truth as float32 scalars."""
    schedule, truth, special = CASES[name]
    for step in [*special, *BIG]:
        for form in (step, tf.constant(step, tf.int64)):
            got = schedule(form)
            assert got.dtype == tf.float32
            assert got.shape == ()
            np.testing.assert_allclose(got.numpy(), np.float64(truth(step)), rtol=1e-6, atol=TINY)
    for form in (tf.constant(special[-1], tf.int32), tf.Variable(special[-1], dtype=tf.int64)):
        if special[-1] < 2**31:
            np.testing.assert_allclose(schedule(form), truth(special[-1]), rtol=1e-6, atol=TINY)


v1 = tf.compat.v1.train
# name: (ours, v1's as a function of a learning rate tensor and a step).
V1_CASES = {
    "exponential": (
        schedules.exponential_decay(0.1, 100, 0.96),
        lambda rate, s: v1.exponential_decay(rate, s, 100, 0.96),
    ),
    "exponential_staircase": (
        schedules.exponential_decay(0.1, 100, 0.96, staircase=True),
        lambda rate, s: v1.exponential_decay(rate, s, 100, 0.96, staircase=True),
    ),
    "natural_exp": (
        schedules.natural_exp_decay(0.1, 70, 0.3),
        lambda rate, s: v1.natural_exp_decay(rate, s, 70, 0.3),
    ),
    "natural_exp_staircase": (
        schedules.natural_exp_decay(0.1, 70, 0.3, staircase=True),
        lambda rate, s: v1.natural_exp_decay(rate, s, 70, 0.3, staircase=True),
    ),
    "inverse_time": (
        schedules.inverse_time_decay(0.1, 70, 0.3),
        lambda rate, s: v1.inverse_time_decay(rate, s, 70, 0.3),
    ),
    "inverse_time_staircase": (
        schedules.inverse_time_decay(0.1, 70, 0.3, staircase=True),
        lambda rate, s: v1.inverse_time_decay(rate, s, 70, 0.3, staircase=True),
    ),
    "polynomial": (
        schedules.polynomial_decay(0.1, 150),
        lambda rate, s: v1.polynomial_decay(rate, s, 150),
    ),
    "polynomial_cycle": (
        schedules.polynomial_decay(0.1, 50, 0.01, 2.0, cycle=True),
        lambda rate, s: v1.polynomial_decay(rate, s, 50, 0.01, 2.0, cycle=True),
    ),
    "cosine": (
        schedules.cosine_decay(0.1, 210, alpha=0.05),
        lambda rate, s: v1.cosine_decay(rate, s, 210, alpha=0.05),
    ),
    "restarts": (
        schedules.cosine_decay_restarts(0.1, 30, t_mul=1.0, m_mul=0.9, alpha=0.05),
        lambda rate, s: v1.cosine_decay_restarts(rate, s, 30, t_mul=1.0, m_mul=0.9, alpha=0.05),
    ),
    "restarts_doubling": (
        schedules.cosine_decay_restarts(0.1, 30, alpha=0.05),
        lambda rate, s: v1.cosine_decay_restarts(rate, s, 30, alpha=0.05),
    ),
    "linear_cosine": (
        schedules.linear_cosine_decay(0.1, 210, num_periods=1.5, alpha=0.2, beta=0.01),
        lambda rate, s: v1.linear_cosine_decay(rate, s, 210, 1.5, 0.2, 0.01),
    ),
    "piecewise": (
        schedules.piecewise_constant([5, 100], [0.3, 0.2, 0.1]),
        lambda rate, s: v1.piecewise_constant(s, [5, 100], [3 * rate, 2 * rate, rate]),
    ),
}


def _value_of(rate):
    # v1's schedules return the value in a graph and a function of no argument in eager.
    return rate() if callable(rate) else rate


# v1's code for these mixes float32 constants in, and so fails with a float64 learning rate.
V1_FLOAT32_ONLY = ("polynomial_cycle", "cosine", "restarts", "restarts_doubling", "linear_cosine")


def test_schedules_equal_compat_v1():
    """Below 2**24 each is v1's: to 1e-6 where v1 can compute in float64, else to its rounding."""
    # Not at v1's restarts (90, 210), where its logarithm may find the wave before.
    steps = [0, 1, 4, 5, 6, 29, 31, 50, 69, 70, 99, 100, 101, 149, 150, 189, 333, 1007]
    single, double = tf.constant(0.1), tf.constant(0.1, tf.float64)

    @tf.function(autograph=False)
    def both(step):
        ours = {name: schedule(step) for name, (schedule, _) in V1_CASES.items()}
        float32 = {name: _value_of(v1s(single, step)) for name, (_, v1s) in V1_CASES.items()}
        float64 = {
            name: _value_of(v1s(double, step))
            for name, (_, v1s) in V1_CASES.items()
            if name not in V1_FLOAT32_ONLY
        }
        return ours, float32, float64

    for step in [*steps, 2**24 - 1]:
        ours, float32, float64 = both(tf.constant(step, tf.int64))
        for name, want in float64.items():
            np.testing.assert_allclose(
                ours[name], want, rtol=1e-6, atol=TINY, err_msg=f"{name} at {step}"
            )
        for name, want in float32.items():
            np.testing.assert_allclose(
                ours[name], want, rtol=1e-6, atol=1e-8, err_msg=f"{name} at {step}"
            )


def test_warmup_equals_keras():
    """linear_warmup and cosine_decay are Keras's CosineDecay with a warm-up target."""
    theirs = keras.optimizers.schedules.CosineDecay(
        0.01, decay_steps=200, alpha=0.1, warmup_target=0.3, warmup_steps=50
    )
    ours = schedules.linear_warmup(schedules.cosine_decay(0.3, 200, 0.1), 50, initial=0.01)
    wrapped = schedules.as_schedule(theirs)
    for step in [0, 1, 25, 49, 50, 51, 149, 248, 249, 250, 251, 1000]:
        np.testing.assert_allclose(ours(step), theirs(step), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(wrapped(step), theirs(step), rtol=1e-7)


def test_scale_changes_without_a_trace():
    """with_scale reads its variable in the compiled call, so a new value needs no new trace."""
    scale = tf.Variable(1.0)
    schedule = schedules.with_scale(schedules.step_decay(0.3, 0.5, 10), scale)
    compiled = tf.function(schedule, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(11, tf.int64)), 0.15, rtol=1e-6)
    scale.assign(0.1)
    np.testing.assert_allclose(compiled(tf.constant(12, tf.int64)), 0.015, rtol=1e-6)
    assert compiled.experimental_get_tracing_count() == 1


def test_zero_warmup_steps_mean_no_warmup():
    """linear_warmup over 0 steps is the schedule itself from step 0 on."""
    assert schedules.linear_warmup(0.25, 0)(0).numpy() == 0.25


def test_restarts_of_fractional_ratio_are_exact():
    """With t_mul=1.1 the restarts come at 10, 21 and ceil(33.1), not a step later by rounding."""
    schedule = schedules.cosine_decay_restarts(1.0, 10, t_mul=1.1)
    for restart in (10, 21):
        assert schedule(restart).numpy() == 1.0
        assert schedule(restart - 1).numpy() < 0.1
    assert schedule(33).numpy() < 1e-3
    assert schedule(34).numpy() > 0.95


def test_repr_shows_the_parameters():
    """A schedule prints what it was made with, and equal parameters make equal schedules."""
    schedule = schedules.exponential_decay(0.1, 1e3, 0.96, staircase=True)
    assert repr(schedule) == (
        "ExponentialDecay(initial_learning_rate=0.1, decay_steps=1000, decay_rate=0.96, "
        "staircase=True)"
    )
    assert schedule == schedules.exponential_decay(0.1, 1000, 0.96, staircase=True)


nan, inf = float("nan"), float("inf")
BAD = {
    "value nan": lambda: schedules.constant(nan),
    "value inf": lambda: schedules.constant(inf),
    "value negative": lambda: schedules.constant(-0.1),
    "value text": lambda: schedules.constant("0.1"),
    "value bool": lambda: schedules.constant(True),
    "value None": lambda: schedules.as_schedule(None),
    "rate nan": lambda: schedules.exponential_decay(nan, 10, 0.5),
    "decay_steps zero": lambda: schedules.exponential_decay(0.1, 0, 0.5),
    "decay_steps negative": lambda: schedules.natural_exp_decay(0.1, -3, 0.5),
    "decay_steps fraction": lambda: schedules.inverse_time_decay(0.1, 1.5, 0.5),
    "decay_steps nan": lambda: schedules.cosine_decay(0.1, nan),
    "decay_steps inf": lambda: schedules.cosine_decay(0.1, inf),
    "decay_steps text": lambda: schedules.cosine_decay(0.1, "100"),
    "decay_rate zero": lambda: schedules.exponential_decay(0.1, 10, 0.0),
    "decay_rate inf": lambda: schedules.natural_exp_decay(0.1, 10, inf),
    "drop": lambda: schedules.step_decay(0.1, -0.5, 10),
    "every": lambda: schedules.step_decay(0.1, 0.5, 0),
    "power": lambda: schedules.polynomial_decay(0.1, 10, power=0.0),
    "end_learning_rate": lambda: schedules.polynomial_decay(0.1, 10, end_learning_rate=-1.0),
    "alpha": lambda: schedules.cosine_decay(0.1, 10, alpha=1.5),
    "t_mul": lambda: schedules.cosine_decay_restarts(0.1, 10, t_mul=0.5),
    "t_mul near 1": lambda: schedules.cosine_decay_restarts(0.1, 10, t_mul=1.0001),
    "m_mul": lambda: schedules.cosine_decay_restarts(0.1, 10, m_mul=0.0),
    "num_periods": lambda: schedules.linear_cosine_decay(0.1, 10, num_periods=inf),
    "warmup_fraction": lambda: schedules.one_cycle(0.1, 10, warmup_fraction=0.0),
    "warmup_fraction one": lambda: schedules.one_cycle(0.1, 10, warmup_fraction=1.0),
    "initial_divisor": lambda: schedules.one_cycle(0.1, 10, initial_divisor=0.0),
    "anneal": lambda: schedules.one_cycle(0.1, 10, anneal="step"),
    "boundaries unsorted": lambda: schedules.piecewise_constant([5, 3], [1.0, 2.0, 3.0]),
    "boundaries equal": lambda: schedules.piecewise_constant([5, 5], [1.0, 2.0, 3.0]),
    "boundaries empty": lambda: schedules.piecewise_constant([], [1.0]),
    "boundaries fraction": lambda: schedules.piecewise_constant([0.5], [1.0, 2.0]),
    "values few": lambda: schedules.piecewise_constant([5], [1.0]),
    "values nan": lambda: schedules.piecewise_constant([5], [1.0, nan]),
    "warmup_steps": lambda: schedules.linear_warmup(0.1, -1),
    "warmup schedule": lambda: schedules.linear_warmup("cosine", 10),
    "join few": lambda: schedules.join([0.1, 0.2], [3, 4]),
    "join unsorted": lambda: schedules.join([0.1, 0.2, 0.3], [4, 3]),
    "join member": lambda: schedules.join([0.1, -0.2], [4]),
    "scale": lambda: schedules.with_scale(0.1, 0.5),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_arguments_raise_at_construction(make):
    """A bad argument raises ValueError, in one line that says what was found."""
    with pytest.raises(ValueError, match=r"^schedules\.\w+: .* got .*$") as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("step", [1.0, np.float32(2.0), "3"], ids=["float", "float32", "text"])
def test_a_step_that_is_no_integer_raises(step):
    """A float step would bring the float32 counter back, so it is refused."""
    with pytest.raises(TypeError, match="step must be an integer"):
        schedules.cosine_decay(0.1, 10)(step)
