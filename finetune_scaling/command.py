"""What every command does first: logging, the compilation cache, and errors without tracebacks."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from finetune_scaling import configuration, process_setup
from finetune_scaling.errors import ConfigError, UserError, exit_on_user_error
from finetune_scaling.sharding import processes

_CONFIG_MODULE = "config_config"  # what ml_collections calls the module that it makes of --config's file


def run(main: Callable[..., Any], subcommands: Collection[str] = (), operand: str = "") -> None:
    """Runs a command whose flags are absl's; where it has subcommands, `main` is given the chosen one's name.

    operand: what the argument is of a command that takes one; `main` is given it.
    Usage errors exit with 2, errors that a user can mend with their own code, all without a traceback.
    """

    def start(arguments: Sequence[str]) -> None:
        given = arguments[1:]
        if subcommands and len(given) != 1:
            raise ConfigError(f"say what to do, one of: {', '.join(subcommands)}; --help lists the flags")
        if operand and len(given) != 1:
            raise ConfigError(f"give one {operand}; --help tells what it is")
        if given and not (subcommands or operand):
            raise ConfigError(f"unexpected argument {given[0]!r}: flags are written --name=value; --help lists them")
        process_setup.set_up()  # here, since absl resets logging before it calls
        with _together():
            main(*given)

    with exit_on_user_error():
        app.run(start, flags_parser=_parse_flags)


def _together() -> contextlib.AbstractContextManager[None]:
    """This process as one of several where the environment says so; all of them must have the same flags and config."""
    if not processes.is_requested(os.environ):
        return contextlib.nullcontext()

    values = {flag.name: configuration.plain(flag.value) for flag in flags.FLAGS.flags_by_module_dict()[sys.argv[0]]}
    config = values.pop("config", None)
    return processes.distributed_program({"flags": values, "config": config})


def required(flag: flags.FlagHolder[Any] | flags.Flag) -> Any:
    """A flag's value; ConfigError where it was not given."""
    if flag.value in (None, ""):
        raise ConfigError(f"--{flag.name.replace('_', '-')} is missing; --help tells what it is")
    return flag.value


def read_config(flag: flags.FlagHolder[Any] | flags.Flag) -> dict[str, Any]:
    """The config that a --config flag names, overrides applied, as plain data; ConfigError where it cannot be read."""
    if flag.present and flag.value is None:
        raise ConfigError("--config: get_config() of that file returns None; let it return the config")
    config = required(flag)
    try:
        return configuration.plain({name: config[name] for name in config})
    except OSError as error:  # a file that cannot be loaded says so only when its config is used
        if fault := _fault_in_config(error):
            raise ConfigError(fault) from error
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"--config cannot be read: {reason}; name a file such as configs/study/quickstart.py"
        ) from None


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """absl's parser; a wrong flag, or a config file that cannot be read or fails, is a ConfigError of one line."""
    try:
        return flags.FLAGS([arguments[0], *map(_with_underscores, arguments[1:])])
    except UserError:
        raise
    except SystemExit:
        if any(argument.startswith(("--help", "-h", "-?")) for argument in arguments[1:]):
            sys.exit(0)  # it was shown, as asked; absl ends with 1
        raise
    except Exception as error:  # a config file is Python: whatever a program can raise
        if fault := _fault_in_config(error):
            raise ConfigError(fault) from error
        if not isinstance(error, flags.Error | AttributeError | KeyError | TypeError | ValueError | OSError):
            raise
        check_overrides(arguments)
        # A KeyError's own text is the repr of its message.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        kind = "" if isinstance(error, flags.Error | KeyError) else "--config: "
        raise ConfigError(f"{kind}{_one_line(str(text))}; --help lists the flags") from error


def _fault_in_config(error: BaseException) -> str | None:
    """What went wrong in the file of --config, with its line; None where the error does not come from there."""
    for cause in _causes(error):
        frames = [frame for frame in traceback.walk_tb(cause.__traceback__) if _is_config(frame[0].f_globals)]
        if frames:
            frame, line = frames[-1]
            return _one_line(f"--config: {frame.f_code.co_filename}:{line}: {type(cause).__name__}: {cause}")
        if isinstance(cause, SyntaxError) and cause.filename:  # the file never ran
            return _one_line(f"--config: {cause.filename}:{cause.lineno}: {type(cause).__name__}: {cause.msg}")
        if isinstance(cause, TypeError) and str(cause).startswith("get_config()"):
            return f"--config: {cause}; write --config=FILE:ARGUMENT where the file takes one, --config=FILE otherwise"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from or while handling, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_config(names: dict[str, Any]) -> bool:
    return names.get("__name__") == _CONFIG_MODULE


def _one_line(text: str) -> str:
    return " ".join(text.split())


def check_overrides(arguments: Sequence[str]) -> None:
    """Raises ConfigError for the first --config.group.field=... whose field the config does not have."""
    named = [argument for argument in arguments if argument.startswith("--config=")]
    try:
        config = ConfigFileFlagParser("config").parse(named[-1].partition("=")[2]) if named else None
    except Exception:  # a file that cannot be read is not a matter of overrides: the caller tells it
        return
    if not isinstance(config, ConfigDict):
        return
    for argument in arguments:
        if argument.startswith("--config."):
            _find(config, argument.partition("=")[0].removeprefix("--config."))


def _find(config: ConfigDict, name: str) -> None:
    """Follows a dotted name through a config; ConfigError at the first part that is not there, or not filled."""
    group: Any = config
    where = "config"
    try:
        parts = config_path.split(name)
    except ValueError:
        raise ConfigError(f"--config.{name} is not the name of a field; write --config.group.field=value") from None
    for part in parts:
        if not isinstance(group, ConfigDict):
            return  # an entry of a list: the parser's own message says what is wrong
        if part not in group:
            raise ConfigError(f"--{where}.{part}: {where} has no such field{configuration.suggestion(part, group)}")
        if group[part] is None and group.get_type(part) is type(None):
            raise ConfigError(f"--{where}.{part} is empty in this config; fill it in the config file")
        group, where = group[part], f"{where}.{part}"


def _with_underscores(argument: str) -> str:
    """--target-language=de is as good as --target_language=de, and --no-merge as --nomerge."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    plain = name[2:].replace("-", "_")
    if plain.startswith("no_") and plain not in flags.FLAGS and f"no{plain[3:]}" in _negated():
        plain = f"no{plain[3:]}"
    return f"--{plain}{equals}{value}"


def _negated() -> set[str]:
    """What absl calls truth values that are given as false."""
    return {f"no{name}" for name in flags.FLAGS if flags.FLAGS[name].boolean}
