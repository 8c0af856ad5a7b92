"""What a traced function writes, draws and asks of Python."""

import pytest
import tensorflow as tf

from loop.compiled import trace


def _assign(variable):
    variable.assign_add(tf.ones([3]))
    return tf.constant(0.0)


def _in_branch(variable):
    return tf.cond(tf.constant(1) > 0, lambda: _assign(variable), lambda: tf.constant(1.0))


def _in_loop(variable):
    return tf.while_loop(
        lambda i: i < 2, lambda i: i + 1 + tf.cast(_assign(variable), tf.int32), [0]
    )


def _in_function(variable):
    return tf.function(lambda: _assign(variable))()


def _in_case(variable):
    return tf.switch_case(tf.constant(1), [lambda: tf.constant(0.0), lambda: _assign(variable)])


def _in_function_of_a_branch_of_a_loop(variable):
    return tf.while_loop(
        lambda i: i < 2,
        lambda i: tf.cond(
            i > 0,
            lambda: i + 1 + tf.cast(_in_function(variable), tf.int32),
            lambda: i + 1,
        ),
        [0],
    )


def _by_raw_handle(variable):
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.zeros([3]))
    return tf.constant(0.0)


def _scattered(variable):
    variable.scatter_update(tf.IndexedSlices(tf.ones([1]), tf.constant([0])))
    return tf.constant(0.0)


@pytest.mark.parametrize("compiled", [None, True])
@pytest.mark.parametrize(
    "write",
    [
        _assign,
        _in_branch,
        _in_loop,
        _in_function,
        _in_case,
        _in_function_of_a_branch_of_a_loop,
        _by_raw_handle,
        _scattered,
    ],
)
def test_a_write_is_found_wherever_it_is(write, compiled):
    """Of two variables that are read, the one that is also written is told, for both compilers."""
    written, other = tf.Variable(tf.ones([3])), tf.Variable(tf.ones([3]))

    @tf.function(jit_compile=compiled, autograph=False)
    def step(x):
        result = tf.reduce_sum(x * written * other) + tf.gather(other, [1])[0]
        return result, write(written)

    found = trace.read(step.get_concrete_function(tf.ones([3])))
    assert [id(handle) for handle in found.written] == [id(written.handle)]
    assert (found.random, found.python, found.unknown) == ((), (), ())


def test_a_function_that_only_reads_writes_nothing():
    """Reads of variables, through functions too, are no writes."""
    variable = tf.Variable(tf.ones([3]))
    inner = tf.function(lambda: variable * 2.0)
    step = tf.function(lambda: inner() + tf.gather(variable, [0, 1, 2]), autograph=False)
    assert trace.read(step.get_concrete_function()).written == ()


@pytest.mark.parametrize(
    ("draw", "operation"),
    [
        (lambda: tf.random.normal([2]), "RandomStandardNormal"),
        (lambda: tf.random.uniform([2]), "RandomUniform"),
        (lambda: tf.random.shuffle(tf.range(3)), "RandomShuffle"),
        (lambda: tf.function(lambda: tf.random.truncated_normal([2]))(), "TruncatedNormal"),
        (lambda: tf.random.categorical([[0.5, 0.5]], 2), "Multinomial"),
    ],
)
def test_random_operations_with_hidden_state_are_found(draw, operation):
    """Each of TensorFlow's stateful draws is named, in a called function too."""
    step = tf.function(draw, autograph=False)
    assert trace.read(step.get_concrete_function()).random == (operation,)


def test_stateless_draws_and_generators_hide_nothing():
    """Stateless draws are of their seed; a generator's state is a variable that is written."""
    generator = tf.random.Generator.from_seed(1)

    @tf.function(autograph=False)
    def step():
        return tf.random.stateless_normal([2], [1, 2]) + generator.normal([2])

    found = trace.read(step.get_concrete_function())
    assert found.random == ()
    assert [id(handle) for handle in found.written] == [id(generator.state.handle)]


def test_calls_of_python_are_found():
    """A print and a Python function are told by their types."""

    @tf.function(autograph=False)
    def step():
        tf.print("x", output_stream="file:///dev/null")
        return tf.numpy_function(lambda: 1.0, [], tf.float64)

    assert sorted(trace.read(step.get_concrete_function()).python) == ["PrintV2", "PyFunc"]
