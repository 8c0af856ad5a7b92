"""The explicit map from names to variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import layers, optimizers, variables


def test_names_follow_the_owners_of_a_nested_mapping():
    """Each variable's name is its owners' keys and its own name, in the owners' order."""
    dense = layers.Dense(3, 2, name="logits", seed=0)
    optimizer = optimizers.Momentum(0.1)
    optimizer.build(dense.trainable_variables)
    counter = loop.GlobalStep()
    owners = {"nets": {"g": dense}, "optimizer": optimizer, "global_step": counter.variable}
    found = variables.named(owners)
    assert list(found)[:2] == ["nets/g/logits/kernel", "nets/g/logits/bias"]
    assert found["nets/g/logits/kernel"] is dense.kernel
    assert found["global_step"] is counter.variable
    assert {name for name in found if name.startswith("optimizer/")} == {
        f"optimizer/{name}" for name in optimizer.state
    }


def test_a_keras_model_gives_every_weight_and_statistic():
    """All weights of a Keras model, moving statistics too, appear as tf.Variables by their path."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()], name="net"
    )
    found = variables.named({"model": model})
    assert set(found) == {f"model/{weight.path}" for weight in model.weights}
    assert len(found) == 6
    assert all(isinstance(variable, tf.Variable) for variable in found.values())
    path = model.weights[0].path
    found[f"model/{path}"].assign(np.full((4, 3), 0.5))
    assert np.all(model.weights[0].numpy() == 0.5)


def test_variable_and_name_of_both_kinds():
    """TensorFlow's name comes without its ":0" and Keras's as its path."""
    plain = tf.Variable(1.5, name="scale")
    own = keras.Variable(np.zeros(2), name="offset")
    assert variables.variable_of(plain) is plain
    assert variables.variable_of(own) is own.value
    assert (variables.name_of(plain), variables.name_of(own)) == ("scale", own.path)
    with pytest.raises(TypeError, match=r"expected a tf\.Variable or a Keras variable, got"):
        variables.variable_of(np.zeros(2))


def test_an_unknown_owner_is_refused():
    """Nothing is searched for in unknown objects: what a search misses, a resume loses."""

    class Holder:
        def __init__(self):
            self.weight = tf.Variable(1.0)

    with pytest.raises(TypeError, match="cannot tell the variables of Holder"):
        variables.named({"model": Holder()})


def test_a_module_a_list_and_a_metric_are_owners():
    """A tf.Module's variables by their place, a list's by number, a Keras metric's by path."""

    class Holder(tf.Module):
        def __init__(self):
            super().__init__()
            self.layers = [tf.Variable(1.0), tf.Variable(2.0)]

    holder, metric = Holder(), keras.metrics.Mean(name="mean")
    state = variables.named([holder, {"metric": metric}])
    assert state["0/layers/1"] is holder.layers[1]
    of_metric = [variable.value for variable in metric.variables]
    assert [v for n, v in state.items() if n.startswith("1/metric/")] == of_metric


def test_two_variables_of_one_name_are_refused():
    """Names that meet by way of different owners are refused, not overwritten."""
    first, second = tf.Variable(1.0), tf.Variable(2.0)
    with pytest.raises(ValueError, match="two variables are named 'a/b/c'"):
        variables.named({"a": {"b/c": first}, "a/b": {"c": second}})
