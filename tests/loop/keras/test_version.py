"""The Keras that the adapter was read against: its bounds, its internals, the line for another."""

import configparser
import inspect
import pathlib
import re
import types
from concurrent.futures import ThreadPoolExecutor

import keras
import pytest
import tensorflow as tf

from experiments.entry.errors import InputError
from experiments.training import models
from loop import variables
from loop.keras import adapter, version
from loop.precision.policy import Precision

_ROOT = pathlib.Path(__file__).parents[3]
_VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])
# What Keras's TensorFlow optimizer puts in place of its plain one's. The adapter gives these back.
_GIVEN_BACK = {
    "assign": ["self", "variable", "value"],
    "assign_add": ["self", "variable", "value"],
    "assign_sub": ["self", "variable", "value"],
    "_apply_weight_decay": ["self", "variables"],
    "_backend_update_step": ["self", "grads", "trainable_variables", "learning_rate"],
    "_var_key": ["self", "variable"],
}
# It leaves these, each for the reason beside it.
_LEFT = {
    "__init__",  # before the adapter has the optimizer
    "add_variable_from_reference",  # makes a slot beside its variable, which is wanted
    "stateless_apply",  # not called
    "_overwrite_model_variables_with_average_value",  # of an option that is refused
    "_backend_increment_gradient_accumulators",  # of an option that is refused
    "_clip_by_norm",  # TensorFlow's operation on a tensor; assigns nothing
}


def test_setup_cfg_has_the_bounds():
    """What is installed is what the adapter was read against, no version more or less."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(_ROOT / "setup.cfg")
    required = config["options"]["install_requires"].split()
    assert [line for line in required if line.startswith("keras")] == ["keras>=3.12,<3.16"]
    assert version.OLDEST == (3, 12)
    assert version.NEWEST == (3, 15)
    assert version.OLDEST <= _VERSION <= version.NEWEST


def test_the_tensorflow_optimizer_overrides_what_the_adapter_gives_back():
    """Keras's optimizers are TensorFlow's over the plain one, which differ in the names known."""
    backend = keras.optimizers.Optimizer.__bases__[0]
    plain = next(base for base in backend.__mro__ if base.__name__ == "BaseOptimizer")
    overridden = {
        name
        for base in backend.__mro__[: backend.__mro__.index(plain)]
        for name, value in vars(base).items()
        if inspect.isfunction(value) and inspect.isfunction(getattr(plain, name, None))
    }
    # Keras's attribute tracking; the adapter goes past it.
    assert overridden - {"__setattr__", "__delattr__"} == _GIVEN_BACK.keys() | _LEFT
    for name, parameters in _GIVEN_BACK.items():
        assert list(inspect.signature(getattr(plain, name)).parameters) == parameters
    parameters = inspect.signature(plain._get_current_learning_rate).parameters
    assert list(parameters) == ["self"]
    parameters = inspect.signature(plain._check_variables_are_known).parameters
    assert list(parameters) == ["self", "variables"]


def test_an_optimizer_keeps_its_learning_rate_where_the_adapter_reads_it():
    """A number is a variable, a Keras schedule and a function are themselves."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert isinstance(keras.optimizers.SGD(0.1)._learning_rate, keras.Variable)
    assert keras.optimizers.SGD(schedule)._learning_rate is schedule
    rate = keras.optimizers.SGD(lambda: 0.25)._learning_rate
    assert float(rate()) == 0.25


@pytest.mark.parametrize(
    "option", ["gradient_accumulation_steps", "loss_scale_factor", "ema_overwrite_frequency"]
)
def test_a_refused_option_is_an_attribute_of_its_name(option):
    """Were it stored under another name, the adapter would let it through."""
    given = {option: 2, "use_ema": True} if option.startswith("ema") else {option: 2}
    assert getattr(keras.optimizers.SGD(**given), option) == 2


def test_layers_keep_their_seed_generators_where_the_adapter_looks():
    """The lists that the adapter walks hold each layer's own generator and its inner layers."""
    dropout = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([dropout])])
    assert dropout._seed_generators == [dropout.seed_generator]
    assert isinstance(dropout.seed_generator.state.value, tf.Variable)
    assert dropout in next(inner for inner in model._layers if inner._layers)._layers


def test_a_stateful_recurrent_layer_keeps_its_states_where_the_adapter_looks():
    """In `states` of the layer, in no list of weights; all layers are found, the inner ones too."""
    given = keras.Input(batch_shape=(2, 3, 4))
    inner = keras.Sequential([keras.layers.LSTM(5, stateful=True)])
    model = keras.Model(given, inner(given))
    lstm = inner.layers[0]
    assert any(layer is lstm for layer in model._flatten_layers())
    assert not {id(state) for state in lstm.states} & {id(weight) for weight in model.weights}
    assert [
        variable is state.value
        for variable, state in zip(
            adapter.recurrent_states(model).values(), lstm.states, strict=True
        )
    ] == [True, True]


def test_the_global_seed_generator_is_where_the_adapter_looks():
    """`keras.random` without a seed draws from the one that the adapter makes."""
    keras.utils.clear_session()
    adapter.make_global_seed_generator()
    generator = keras.src.random.seed_generator.global_seed_generator()
    before = generator.state.numpy().copy()
    keras.random.normal([2])
    assert (generator.state.numpy() != before).any()


def test_keras_adds_nothing_to_an_error_that_is_marked():
    """The mark by which an error of the adapter stays one line."""

    class Draws(keras.layers.Layer):
        def call(self, x):
            return x + keras.random.normal([2])

    def message(mark):
        error = ValueError("one line")
        if mark:
            adapter.refuse_unseeded_draws(error)
        with pytest.raises(ValueError, match="one line") as raised:
            (Draws() if mark else _Raises(error))(tf.ones([2]))
        return str(raised.value)

    with ThreadPoolExecutor(1) as thread:  # Keras's global generator is one a thread.
        assert thread.submit(message, True).result() == "one line"
    assert "Exception encountered" in message(False)


class _Raises(keras.layers.Layer):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def call(self, _):
        raise self.error


def test_the_adapter_uses_no_other_private_name():
    """The tests above speak of every underscored name of Keras that the adapter has."""
    text = (_ROOT / "loop" / "keras" / "adapter.py").read_text(encoding="utf-8")
    own = {"_schedule", "_variables", "_update", "_read", "_stateless", "_error"}
    # Not after a letter, so that `learning_rate` is not `_rate`.
    used = set(re.findall(r"(?<![A-Za-z0-9_])_[a-z]\w+", text)) - own
    assert used == {
        "_seed_generators",
        "_layers",
        "_flatten_layers",
        "_keras_call_info_injected",
        "_check_variables_are_known",
        "_learning_rate",
        "_var_key",
        "_apply_weight_decay",
        "_backend_update_step",
        "_get_current_learning_rate",
    }


_LAYER = keras.layers.Dense(2)
_MEETINGS = {
    "an optimizer": lambda: adapter.KerasOptimizer(keras.optimizers.SGD(0.1)),
    "a model in the state": lambda: variables.named({"model": _LAYER}),
    "a variable": lambda: variables.variable_of(keras.Variable([1.0])),
}


@pytest.mark.parametrize("version", ["2.15.0", "3.11.3", "3.16.0", "3.16.0.dev2026", "4.0.1"])
@pytest.mark.parametrize("meet", _MEETINGS.values(), ids=_MEETINGS)
def test_another_version_is_one_line_where_it_is_first_met(monkeypatch, version, meet):
    """The line names both versions and the command that mends it."""
    monkeypatch.setattr(keras, "__version__", version)
    with pytest.raises(ImportError) as raised:
        meet()
    assert str(raised.value) == (
        "loop.keras: expected Keras 3.12 to 3.15, whose internals it uses, found Keras "
        f"{version}; to mend: pip install 'keras>=3.12,<3.16'"
    )


@pytest.mark.parametrize("version", ["3.12.0", "3.15.9", "3.13.0rc1"])
def test_a_version_within_the_bounds_is_accepted(monkeypatch, version):
    """Every patch of the versions read."""
    monkeypatch.setattr(keras, "__version__", version)
    for meet in _MEETINGS.values():
        meet()


def test_a_loop_without_keras_objects_does_not_mind_the_version(monkeypatch):
    """TensorFlow's own variables are used whatever Keras is there, even one without Variable."""
    monkeypatch.setattr(keras, "__version__", "2.15.0")
    monkeypatch.delattr(keras, "Variable")
    weight = tf.Variable([1.0])
    assert variables.variable_of(weight) is weight
    assert not adapter.is_variable(weight)
    assert not adapter.is_layer(weight)


def test_another_backend_is_named():
    """Keras's variables are TensorFlow's on TensorFlow alone."""
    config = types.SimpleNamespace(backend=lambda: "jax")
    other = types.SimpleNamespace(__version__="3.15.0", config=config)
    with pytest.raises(ImportError, match=r"found its backend jax; .* KERAS_BACKEND=tensorflow"):
        version.check(other)


def test_the_binary_names_the_flag(monkeypatch):
    """`--model=keras_cnn` with another Keras is bad input: one line, status 2."""
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    options = {"dropout": 0.1, "seed": 0, "precision": Precision("float32"), "synchronized": False}
    with pytest.raises(InputError, match=r"--model=keras_cnn: expected Keras 3.12 to 3.15.*3.16.0"):
        models.make("keras_cnn", (8, 8, 1), 10, **options)
