"""Modules: variables in plain attributes, lists and dicts."""

import keras
import pytest
import tensorflow as tf

import loop
from loop import layers


class _Block(loop.Module):
    def __init__(self, name):
        self.width = 3
        self.name = name
        self.activation = tf.nn.relu
        self.dense = layers.Dense(3, 3, name=f"{name}/dense", seed=1, bias=False)
        self.norm = layers.BatchNorm(3, name=f"{name}/norm")


class _Net(loop.Module):
    def __init__(self):
        self.blocks = [_Block("one"), (_Block("two"),)]
        self.heads = {"a": layers.Dense(3, 1, name="head", seed=1), "rate": 0.5}
        self.tied = self.blocks[0].dense
        self.extra = tf.Variable(2.0, name="extra", trainable=False)


def test_state_holds_every_variable_once_in_order_of_definition():
    """Lists, tuples and dicts are looked into; a shared layer's variables come once."""
    net = _Net()
    norm = ("scale", "offset", "moving_mean", "moving_variance")
    blocks = [
        f"{b}/{v}" for b in ("one", "two") for v in ("dense/kernel", *(f"norm/{n}" for n in norm))
    ]
    assert list(net.state) == [*blocks, "head/kernel", "head/bias", "extra"]
    assert net.state["one/dense/kernel"] is net.tied.kernel


def test_trainable_variables_leave_statistics_out():
    """Moving statistics and untrainable variables are state but are not trained."""
    net = _Net()
    names = [variable.name.split(":")[0] for variable in net.trainable_variables]
    assert "extra" not in names
    assert not [name for name in names if "moving" in name]
    assert len(names) == 8


def test_two_variables_of_one_name_are_refused():
    """Two layers given one name are told apart by nothing, so they are refused."""

    class Twice(loop.Module):
        def __init__(self):
            self.layers = [layers.Dense(2, 2, name="same", seed=0) for _ in range(2)]

    with pytest.raises(ValueError, match="Twice: two variables are named 'same/kernel'"):
        _ = Twice().state


@pytest.mark.parametrize("hidden", [keras.layers.Dense(2), tf.Module()])
def test_foreign_containers_of_variables_are_refused(hidden):
    """A Keras layer or tf.Module inside would hide its variables from a resume."""

    class Holder(loop.Module):
        def __init__(self):
            self.parts = {"inner": [hidden]}

    with pytest.raises(TypeError, match=r"Holder\.parts\['inner'\]\[0\].*hides its variables"):
        _ = Holder().state
