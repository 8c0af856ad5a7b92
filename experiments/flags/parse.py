"""Reads the command line and checks it whole, before TensorFlow is imported."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from absl import flags as absl_flags

from experiments.entry.errors import InputError
from experiments.entry.program import called
from experiments.flags import flagfile, help_text, rules, settings
from experiments.flags.flag import Flag
from experiments.flags.settings import BY_NAME, FLAGS, Settings

_HELP = frozenset({"--help", "-help", "-h", "--helpfull", "--helpshort", "-helpfull"})
_EXAMPLES = {"int": "1", "float": "0.1", "ints": "100,200", "floats": "0.1,0.01,0.001"}
_ILLEGAL = re.compile(r"flag --(\w+)=(.*?): ", re.DOTALL)
_VALUED = re.compile(r"-{1,2}no(\w+)=(.*) does not take an argument$", re.DOTALL)
_DECIMAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|nan)", re.IGNORECASE
)
_MISSING = re.compile(r"Missing value for flag -{1,2}(\w+)$")


def _number(text: str) -> Any:
    """The text of a decimal number as it is; Python and absl know other forms: 0x10, 1_000."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"not a decimal number: {text}")
    return text


class _Int(absl_flags.IntegerParser):
    def convert(self, argument: int | str) -> int:
        return int(_number(argument) if isinstance(argument, str) else argument)


class _Float(absl_flags.FloatParser):
    def convert(self, argument: float | str) -> float:
        return float(_number(argument) if isinstance(argument, str) else argument)


def define(flag_values: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
    """Defines every flag in absl.

    Args:
      flag_values: where; absl's global flags by default.
    """
    kinds: dict[str, Callable[..., object]] = {
        "int": functools.partial(absl_flags.DEFINE, _Int()),
        "float": functools.partial(absl_flags.DEFINE, _Float()),
        "bool": absl_flags.DEFINE_boolean,
        "ints": absl_flags.DEFINE_list,
        "floats": absl_flags.DEFINE_list,
        "text": absl_flags.DEFINE_string,
    }
    for flag in FLAGS:
        if flag.kind == "choice":
            absl_flags.DEFINE_enum(
                flag.name, flag.unless_given, flag.choices, flag.help, flag_values=flag_values
            )
        else:
            kinds[flag.kind](flag.name, flag.unless_given, flag.help, flag_values=flag_values)


def parse(argv: Sequence[str]) -> Settings:
    """Reads and checks a command line.

    What is given directly overrules a flagfile: a flag of the file that means nothing beside it
    (`--clip_norm` beside a direct `--clip=none`, `--epochs` beside `--steps`) is dropped.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The settings, complete.

    Raises:
      InputError: on anything wrong, in one line.
      SystemExit: with 0, after printing the help, if it was asked for.
    """
    arguments = flagfile.expand(argv[1:])
    if not _HELP.isdisjoint(arguments):
        sys.stdout.write(help_text.text(called(argv[0], "experiments.train")))
        raise SystemExit(0)
    values, given = _read(arguments)
    directly = _read(flagfile.without(argv[1:]))[1]
    values, given = rules.overrule(values, given, directly)
    rules.check(values, given)
    return settings.complete(values)


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Every flag's value, each in its own range, and the names of those given."""
    flag_values = absl_flags.FlagValues()  # type: ignore[no-untyped-call]  # absl's own
    define(flag_values)
    try:
        positional = flag_values(["train", *arguments])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        _refuse_unknown(error.flagname, BY_NAME)
    except (absl_flags.Error, ValueError) as error:
        _refuse_unreadable(str(error))
    if positional:
        raise InputError(
            "command line",
            expected="flags only",
            found=f"the argument {positional[0]!r}",
            mend="write it as --flag=value, or remove it",
        )
    values = {flag.name: _checked(flag, flag_values[flag.name].value) for flag in FLAGS}
    return values, {flag.name for flag in FLAGS if flag_values[flag.name].present}


def _nearest(name: str, names: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(name, list(names), n=1)
    return found[0] if found else None


def _refuse_unknown(name: str, names: Iterable[str]) -> NoReturn:
    nearest = _nearest(name.removeprefix("no"), names) or _nearest(name, names)
    raise InputError(
        f"--{name}",
        expected="a known flag",
        found="an unknown one",
        mend=(f"did you mean --{nearest}? " if nearest else "") + "--help lists the flags",
    )


def _refuse_unreadable(message: str) -> NoReturn:
    """Turns absl's message into a line of ours."""
    if missing := _MISSING.match(message):
        flag = BY_NAME[missing[1]]
        raise InputError(
            f"--{flag.name}",
            expected=flag.expected,
            found="nothing after it",
            mend=f"give --{flag.name}=VALUE",
        )
    if valued := _VALUED.match(message):
        raise InputError(
            f"--no{valued[1]}",
            expected="no value",
            found=f"={valued[2]}",
            mend=f"give --{valued[1]} or --no{valued[1]}",
        )
    illegal = _ILLEGAL.match(message)
    if illegal and illegal[1] in BY_NAME:
        _refuse(BY_NAME[illegal[1]], illegal[2])
    raise InputError(
        "command line", expected="flags as --flag=value", found=message, mend="see --help"
    )


def _refuse(flag: Flag, found: object) -> NoReturn:
    if flag.kind == "choice":
        nearest = _nearest(str(found), flag.choices)
        mend = f"did you mean --{flag.name}={nearest}?" if nearest else "choose one of them"
    elif flag.kind == "bool":
        mend = f"give --{flag.name} or --no{flag.name}"
    else:
        default = flag.written_default
        example = f"{default} (the default)" if default else _EXAMPLES[flag.kind]
        mend = f"give for example --{flag.name}={example}"
    raise InputError(f"--{flag.name}", expected=flag.expected, found=found or "nothing", mend=mend)


def _checked(flag: Flag, value: Any) -> Any:
    """The value, converted and in its range."""
    if value is None or flag.kind in ("choice", "bool", "text"):
        return value
    if flag.kind in ("int", "float"):
        if not flag.admits(value):
            _refuse(flag, f"{value!r}")
        return value
    convert = int if flag.kind == "ints" else float
    numbers = []
    for text in value:
        try:
            number = convert(_number(text.strip()))
        except ValueError:
            _refuse(flag, text)
        if not flag.admits(number):
            _refuse(flag, text)
        numbers.append(number)
    return tuple(numbers)
