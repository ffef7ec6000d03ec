"""Commands: start, flags, and errors without tracebacks."""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from absl import app, flags

from finetune_scaling import configuration, process_setup
from finetune_scaling.command_flags import ConfigFlag, read_config
from finetune_scaling.errors import ConfigError, exit_on_user_error
from finetune_scaling.messages import one_line
from finetune_scaling.overrides import take_overrides
from finetune_scaling.sharding import processes


def run(
    main: Callable[..., Any], subcommands: Collection[str] = (), operand: str = "", *, accelerator: bool = False
) -> None:
    """Run a command with absl flags; `main` gets the chosen subcommand, or the operand, as its argument.

    operand: description of the argument, for commands that take one. accelerator: whether the command computes with a
    model; all others, fits included, run on the CPU and do not search for accelerators.
    Usage errors exit with 2 and UserErrors with their own code, without a traceback.
    """

    def start(arguments: Sequence[str]) -> None:
        given = arguments[1:]
        if subcommands and len(given) != 1:
            raise ConfigError(f"give one of the subcommands {', '.join(subcommands)}; --help lists the flags")
        if operand and len(given) != 1:
            raise ConfigError(f"give one {operand}; see --help")
        if given and not (subcommands or operand):
            raise ConfigError(f"unexpected argument {given[0]!r}: flags are written --name=value; --help lists them")
        process_setup.set_up(accelerator=accelerator)  # after absl has set up logging
        with _join_distributed_program():
            main(*given)

    with exit_on_user_error():
        app.run(start, flags_parser=_parse_flags)


def _join_distributed_program() -> contextlib.AbstractContextManager[None]:
    """Join a distributed program if the environment describes one; all processes must have equal flags and config."""
    if not processes.is_requested(os.environ):
        return contextlib.nullcontext()
    own = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
    values = {flag.name: configuration.plain(flag.value) for flag in own if not isinstance(flag, ConfigFlag)}
    configs = {flag.name: read_config(flag) for flag in own if isinstance(flag, ConfigFlag) and flag.value}
    return processes.distributed_program({"flags": values, **configs})


def reject(given: Iterable[flags.FlagHolder[Any]], reason: str) -> None:
    """Raise ConfigError that states the reason if one of these flags was given."""
    for flag in given:
        if flags.FLAGS[flag.name].present:
            raise ConfigError(f"--{flag.name.replace('_', '-')} {reason}. Fix: omit it")


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """Parse flags with absl, and set the overrides of configs. Raises ConfigError of one line for a wrong flag."""
    values = flags.FLAGS
    configs = [flag for flag in (values[name] for name in values) if isinstance(flag, ConfigFlag)]
    try:
        given = values.read_flags_from_files(arguments[1:], force_gnu=False)
        others, overrides = take_overrides(given, [flag.name for flag in configs])
        operands = values([arguments[0], *map(_with_underscores, others)])
    except SystemExit:
        if any(argument.startswith(("--help", "-h", "-?")) for argument in arguments[1:]):
            sys.exit(0)  # absl exits with 1
        raise
    except flags.Error as error:
        raise ConfigError(f"{one_line(str(error))}; --help lists the flags") from error
    for flag in configs:
        flag.set_overrides([override for override in overrides if override.flag == flag.name])
    return operands


def _with_underscores(argument: str) -> str:
    """Return a flag in absl's notation: --target_language for --target-language, --nomerge for --no-merge."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    plain = name[2:].replace("-", "_")
    if plain.startswith("no_") and plain not in flags.FLAGS and plain[3:] in flags.FLAGS:
        plain = f"no{plain[3:]}"
    return f"--{plain}{equals}{value}"
