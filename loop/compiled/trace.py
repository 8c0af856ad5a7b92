"""What a traced function writes, draws and asks of Python, read from its graph.

A step is to be a pure function of (state, seed, global step). Its trace tells whether it is one:
which variables it assigns, in branches, loops and called functions too, which operations draw
random numbers that no seed decides, and which call back into Python.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# Operations that take a resource and leave what it holds as it is.
_READS = frozenset(
    {
        "LookupTableExportV2",
        "LookupTableFindV2",
        "LookupTableSizeV2",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "VarIsInitializedOp",
        "VariableShape",
        "_ReadVariablesOp",
    }
)
# Operations whose output is one of their inputs.
_PASSES = frozenset(
    {"Enter", "Exit", "Identity", "IdentityN", "Merge", "NextIteration", "RefEnter", "Switch"}
)
_LOOPS = frozenset({"StatelessWhile", "While"})
_BRANCHES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})
# Random operations that keep their state in the kernel, where no checkpoint finds it.
_HIDDEN_RANDOM = frozenset(
    {
        "Multinomial",
        "NonDeterministicInts",
        "ParameterizedTruncatedNormal",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "TruncatedNormal",
    }
)
_PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
_PRINTS = frozenset({"Print", "PrintV2"})


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a traced function does besides computing its outputs.

    Attributes:
      written: the resource handles that the function captures and writes, in the graph's order.
      random: the types of its random operations whose state no variable holds.
      python: the types of its operations that call Python or print.
      unknown: the types of operations that take a resource and are not known to read or to write
        it; they count as writes.
    """

    written: tuple[tf.Tensor, ...]
    random: tuple[str, ...]
    python: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclasses.dataclass
class _Found:
    """What one function's nodes do; `written` holds the places of its arguments."""

    written: dict[Any, None] = dataclasses.field(default_factory=dict)
    operations: dict[str, None] = dataclasses.field(default_factory=dict)
    unknown: dict[str, None] = dataclasses.field(default_factory=dict)

    def add(self, other: _Found) -> None:
        self.operations.update(other.operations)
        self.unknown.update(other.unknown)


def read(function: Any) -> Trace:
    """Reads the graph of a `tf.types.experimental.ConcreteFunction`; runs nothing.

    Args:
      function: the traced function.

    Returns:
      What it writes, draws and calls; also in the functions, branches and loops that it contains.
    """
    graph = function.graph
    definition = graph.as_graph_def()
    library = {one.signature.name: one for one in definition.library.function}
    found = _Reader(library).of_nodes(
        definition.node, {tensor.op.name: tensor.op.name for tensor in graph.inputs}
    )
    captured = {internal.op.name: external for external, internal in graph.captures}
    operations = tuple(found.operations)
    return Trace(
        written=tuple(captured[name] for name in found.written if name in captured),
        random=tuple(name for name in operations if name in _HIDDEN_RANDOM),
        python=tuple(name for name in operations if name in _PYTHON | _PRINTS),
        unknown=tuple(found.unknown),
    )


def written_since(graph: Any, first: int) -> set[str]:
    """What the operations of a graph that is being traced write, from number `first` on.

    Args:
      graph: a FuncGraph.
      first: how many operations it had before.

    Returns:
      The names of the graph's inputs that are resources and that these operations write.
    """
    definition = graph.as_graph_def()
    library = {one.signature.name: one for one in definition.library.function}
    new = {operation.name for operation in graph.get_operations()[first:]}
    inputs = {tensor.op.name: tensor.op.name for tensor in graph.inputs}
    return set(_Reader(library).of_nodes(definition.node, inputs, only=new).written)


class _Reader:
    """Walks function definitions, each once."""

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self._of_function: dict[str, _Found] = {}

    def of_function(self, name: str) -> _Found:
        """What a function of the library does; `written` holds the indices of its arguments."""
        if name not in self._of_function:
            self._of_function[name] = _Found()  # A recursive function adds nothing to itself.
            definition = self._library[name]
            arguments = {
                arg.name: place for place, arg in enumerate(definition.signature.input_arg)
            }
            self._of_function[name] = self.of_nodes(definition.node_def, arguments)
        return self._of_function[name]

    def of_nodes(
        self,
        nodes: Iterable[Any],
        arguments: Mapping[str, Any],
        *,
        only: Collection[str] | None = None,
    ) -> _Found:
        """What nodes do.

        Args:
          nodes: of a graph or a function.
          arguments: an argument's name -> what `written` calls it.
          only: the names of the nodes that count; None for all.
        """
        nodes = list(nodes)
        argument_of = functools.partial(
            _argument_of, arguments=arguments, nodes={node.name: node for node in nodes}
        )
        found = _Found()
        for node in nodes:
            if only is not None and node.name not in only:
                continue
            inputs = [name for name in node.input if not name.startswith("^")]
            for place in self._written_inputs(node, inputs, found):
                argument = argument_of(inputs[place])
                if argument is not None:
                    found.written[argument] = None
        return found

    def _written_inputs(self, node: Any, inputs: list[str], found: _Found) -> Iterable[int]:
        """The places of a node's inputs that it writes; notes what else it does in `found`."""
        if node.op in self._library:
            called = self.of_function(node.op)
            found.add(called)
            return list(called.written)
        functions = [name for name in _functions_of(node) if name in self._library]
        if functions:
            first = 1 if node.op in _BRANCHES else 0
            places: dict[int, None] = {}
            for name in functions:
                called = self.of_function(name)
                found.add(called)
                places.update(dict.fromkeys(first + place for place in called.written))
            return list(places)
        found.operations[node.op] = None
        # A collective takes a resource only for its order among the others.
        if node.op.startswith("Collective"):
            return []
        if node.op in _READS or node.op in _PASSES or node.op in ("Placeholder", "_Arg"):
            return []
        resources = _resource_inputs(node)
        if resources and not node.op.startswith(("Assign", "Resource", "Rng", "Stateful")):
            found.unknown[node.op] = None
        return [place for place in resources if place < len(inputs)]


def _functions_of(node: Any) -> list[str]:
    """The functions that a node's attributes name: the branches of an If, the body of a While."""
    names = []
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            names.append(attribute.func.name)
        elif attribute.HasField("list"):
            names.extend(function.name for function in attribute.list.func)
    return names


def _argument_of(name: str, arguments: Mapping[str, Any], nodes: Mapping[str, Any]) -> Any:
    """Which argument a resource comes from, through identities and loops; None for none."""
    while True:
        node_name, place = _output(name)
        if node_name in arguments:
            return arguments[node_name]
        node = nodes.get(node_name)
        if node is None:
            return None
        if node.op in _LOOPS or node.op == "IdentityN":
            name = node.input[place]
        elif node.op in _PASSES:
            name = node.input[0]
        else:
            return None  # Made by the function itself, such as a stack or an iterator.


def _output(name: str) -> tuple[str, int]:
    """A tensor's node and output: `node`, `node:1` or, in a function, `node:output:1`."""
    parts = name.removeprefix("^").split(":")
    return parts[0], int(parts[-1]) if len(parts) > 1 and parts[-1].isdigit() else 0


def _resource_inputs(node: Any) -> list[int]:
    """The places of the inputs that are resources."""
    definition = op_def_registry.get(node.op)
    if definition is None:
        return []
    places: list[int] = []
    place = 0
    resource = tf.resource.as_datatype_enum
    for argument in definition.input_arg:
        if argument.type_list_attr:
            types = list(node.attr[argument.type_list_attr].list.type)
        else:
            count = node.attr[argument.number_attr].i if argument.number_attr else 1
            kind = node.attr[argument.type_attr].type if argument.type_attr else argument.type
            types = [kind] * count
        places.extend(place + offset for offset, kind in enumerate(types) if kind == resource)
        place += len(types)
    return places
