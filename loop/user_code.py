"""Errors that a user's own function raises: whose function, where in it, without our frames."""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

import kernels


def _folder(file: str | None) -> str:
    return os.path.dirname(os.path.abspath(file or "")) + os.sep


_OURS = (_folder(__file__), _folder(kernels.__file__))
_TENSORFLOW = _folder(tf.__file__)
_KERAS = f"{os.sep}keras{os.sep}src{os.sep}"
_COLOR = re.compile(r"\x1b\[\d*m")
_PASSED_THROUGH = ("contextlib.py", "functools.py", "six.py", "threading.py")


def called(what: str, function: Callable[[Any], Any], argument: Any, *, takes: str) -> Any:
    """What a user's function returns for a copy of its argument, which it may change.

    An error that is clear keeps its type and message and gets a note of where it was raised and
    what the function was given; one that only speaks of Python's or TensorFlow's inside is raised
    anew, in one line.

    Args:
      what: the function in messages, such as "GradientStep: loss_fn".
      function: the user's.
      argument: a nest of tensors.
      takes: the argument in messages, such as "the batch".
    """
    own = tf.nest.map_structure(lambda tensor: tensor, argument)
    try:
        return function(own)
    except Exception as error:
        trace = error.__traceback__
        inner = None if trace is None else trace.tb_next
        if _passed_here(inner):
            raise  # A function within this one has told it.
        line = _line(what, function, argument, takes, error, inner)
        if line is not None:
            raise _anew(error, line).with_traceback(inner) from None
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"{what} failed{_at(inner)}; {takes} is {_described(argument)}")
        raise


def called_for_values(
    what: str, function: Callable[[Any], Any], argument: Any, *, takes: str
) -> dict[str, Any]:
    """As `called`, for a function that returns a dict of values.

    Raises:
      TypeError: it returned something else.
    """
    values = called(what, function, argument, takes=takes)
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{what} expected to return a dict of values by name, found {found(values)}; return "
            '{"name": value}'
        )
    return dict(values)


def without_inner_frames(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of ours that calls the user's; its errors show the user's frames alone.

    Some 40 frames of ours and TensorFlow's lie between `train` and a loss function. They are left
    out of the traceback, unless `tf.debugging.disable_traceback_filtering` was called.
    """
    try:
        return function(*arguments)
    except Exception as error:
        if not tf.debugging.is_traceback_filtering_enabled() or error.__traceback__ is None:
            raise
        error.__traceback__ = _shortened(error.__traceback__.tb_next)
        raise error


def place_of(function: Any) -> str:
    """A function's name, file and line: ` f at file.py:3`; nothing where it has none."""
    code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
    return "" if code is None else f" {code.co_name} at {code.co_filename}:{code.co_firstlineno}"


def found(value: Any) -> str:
    """A value that is not what was expected, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (str, int, float)):
        return repr(value)
    if isinstance(value, tf.Tensor):
        return _described(value)
    return f"an instance of {type(value).__module__}.{type(value).__qualname__}"


def _line(
    what: str,
    function: Any,
    argument: Any,
    takes: str,
    error: Exception,
    trace: types.TracebackType | None,
) -> str | None:
    """The error in a line, where its own message does not say what to do; else None."""
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, TypeError) and trace is None:
        return f"{what}: expected a function of {takes} alone, found{place_of(function)}: {reason}"
    if isinstance(error, tf.errors.OperatorNotAllowedInGraphError):
        return (
            f"{what}: a tensor is used as a Python value{_at(trace)}, in an `if`, `while`, `for`, "
            "`in` or `bool()`, which no compiled step can; use tf.where, tf.cond or tf.while_loop, "
            "or compile='eager'"
        )
    if "symbolic" in reason.lower():
        return (
            f"{what}: a tensor of the compiled step is given to Python or NumPy{_at(trace)} "
            f"({reason.partition('. ')[0]}); use TensorFlow's function of that name, or "
            "compile='eager'"
        )
    if reason.startswith("Exception encountered when calling"):  # Keras's, of ten lines
        reason = " ".join(_COLOR.sub("", str(error)).split("\n\n")[1].split())
        return f"{what} failed{_at(trace)}: {reason}; {takes} is {_described(argument)}"
    if isinstance(error, KeyError) and isinstance(argument, Mapping):
        key = error.args[0] if error.args else None
        if isinstance(key, str) and key not in argument:
            return f"{what}: no {key!r}{_at(trace)}; {takes} has {', '.join(map(repr, argument))}"
    return None


def _anew(error: Exception, line: str) -> Exception:
    """An error of the same type, which the callers may catch, with another message."""
    kinds = (TypeError, KeyError, NotImplementedError, AttributeError, ValueError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), TypeError)
    return kind(line)


def _at(trace: types.TracebackType | None) -> str:
    """Where in the user's code: ` at file.py:12 in f`."""
    users = [entry for entry in _entries(trace) if _is_users(entry)]
    if not users:
        return ""
    code = users[-1].tb_frame.f_code
    return f" at {code.co_filename}:{users[-1].tb_lineno} in {code.co_name}"


def _described(argument: Any) -> str:
    """A nest of tensors: the dtype and shape of each."""
    if isinstance(argument, Mapping):
        return "{" + ", ".join(f"{n!r}: {_described(v)}" for n, v in argument.items()) + "}"
    if isinstance(argument, (tuple, list)):
        return f"({', '.join(map(_described, argument))})"
    if isinstance(argument, tf.Tensor):
        return f"{argument.dtype.name}{argument.shape}"
    return type(argument).__name__


def _entries(trace: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_library(entry: types.TracebackType) -> bool:
    file = entry.tb_frame.f_code.co_filename
    return file.startswith(_TENSORFLOW) or _KERAS in file


def _is_users(entry: types.TracebackType) -> bool:
    file = entry.tb_frame.f_code.co_filename
    passed = os.path.basename(file) in _PASSED_THROUGH
    return not (passed or _is_library(entry) or file.startswith(_OURS))


def _passed_here(trace: types.TracebackType | None) -> bool:
    return any(entry.tb_frame.f_code is called.__code__ for entry in _entries(trace))


def _shortened(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The frames from the first of the user's on, without TensorFlow's and Keras's.

    Where none is the user's, the error is one of our checks: the last frame says of which.
    """
    entries = [entry for entry in _entries(trace) if not _is_library(entry)]
    first = next((place for place, entry in enumerate(entries) if _is_users(entry)), -1)
    kept = None
    for entry in reversed(entries[first:]):
        kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept
