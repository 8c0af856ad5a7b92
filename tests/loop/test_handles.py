"""Reading and writing variables by their handles."""

import ast
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from loop import handles

_LOOP = pathlib.Path(handles.__file__).parent
_OPERATIONS = {"ReadVariableOp", "AssignVariableOp"}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_a_value_is_read_and_written(dtype, traced):
    """Eagerly and in a trace: read gives value, dtype and static shape; write sets the value."""
    before = np.array([[3, -1, 2], [7, 0, 5]])
    variable = tf.Variable(tf.cast(before, dtype))
    shapes = []

    def add_one():
        old = handles.read(variable)
        shapes.append((old.shape.as_list(), old.dtype.name))
        handles.write(variable, old + 1)
        return old

    old = (tf.function(add_one) if traced else add_one)()
    assert shapes == [([2, 3], dtype)]
    np.testing.assert_array_equal(tf.cast(old, tf.int64), before)
    np.testing.assert_array_equal(tf.cast(variable, tf.int64), before + 1)


def test_a_handle_looked_up_before_a_branch_is_used_in_it():
    """A handle from outside of a branch reads and writes its variable inside, with its shape."""
    variable = tf.Variable([1.5, -2.0])

    @tf.function
    def negate_if(flag):
        handle, shapes = variable.handle, []

        def negate():
            old = handles.read_handle(handle, variable.dtype, variable.shape)
            shapes.append(old.shape)
            handles.write_handle(handle, -old)

        tf.cond(flag, negate, lambda: None)
        assert shapes == [[2]]

    negate_if(tf.constant(False))
    np.testing.assert_array_equal(variable, [1.5, -2.0])
    negate_if(tf.constant(True))
    np.testing.assert_array_equal(variable, [-1.5, 2.0])


def test_no_other_file_reads_or_writes_by_raw_operations():
    """The raw operations are called in one file."""
    users = {
        path.relative_to(_LOOP).as_posix()
        for path in _LOOP.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in _OPERATIONS
    }
    # The updater of the optimizers has handles of its own until its rules are in one place.
    assert users - {"optimizers/trained.py", "optimizers/update.py"} == {"handles.py"}
