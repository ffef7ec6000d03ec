"""Commands: flags, configs, and errors without tracebacks."""

import contextlib
import glob
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from finetune_scaling import configuration, process_setup
from finetune_scaling.errors import ConfigError, UserError, causes, exit_on_user_error
from finetune_scaling.sharding import processes

_CONFIG_MODULE = "config_config"  # ml_collections' name of the module of --config's file


def run(main: Callable[..., Any], subcommands: Collection[str] = (), operand: str = "") -> None:
    """Run a command with absl flags; `main` gets the chosen subcommand, or the operand, as its argument.

    operand: description of the argument, for commands that take one.
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
        process_setup.set_up()  # after absl has set up logging
        with _join_distributed_program():
            main(*given)

    with exit_on_user_error():
        app.run(start, flags_parser=_parse_flags)


def _join_distributed_program() -> contextlib.AbstractContextManager[None]:
    """Join a distributed program if the environment describes one; all processes must have equal flags and config."""
    if not processes.is_requested(os.environ):
        return contextlib.nullcontext()
    values = {flag.name: configuration.plain(flag.value) for flag in flags.FLAGS.flags_by_module_dict()[sys.argv[0]]}
    config = values.pop("config", None)
    return processes.distributed_program({"flags": values, "config": config})


def required(flag: flags.FlagHolder[Any] | flags.Flag) -> Any:
    """Return the value of a flag. Raises ConfigError if it was not given."""
    if flag.value in (None, ""):
        raise ConfigError(f"--{flag.name.replace('_', '-')} is missing; see --help")
    return flag.value


def reject(given: Iterable[flags.FlagHolder[Any]], reason: str) -> None:
    """Raise ConfigError that states the reason if one of these flags was given."""
    for flag in given:
        if flags.FLAGS[flag.name].present:
            raise ConfigError(f"--{flag.name.replace('_', '-')} {reason}. Fix: omit it")


def expand_globs(flag: flags.FlagHolder[Any], paths: Iterable[str]) -> list[str]:
    """Return the distinct paths in order, with glob patterns expanded. Raises ConfigError if one matches nothing."""
    found: list[str] = []
    for path in paths:
        matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
        if not matches:
            raise ConfigError(f"--{flag.name}={path} matches no directory; check the pattern")
        found += matches
    return list(dict.fromkeys(found))


def read_config(flag: flags.FlagHolder[Any] | flags.Flag) -> dict[str, Any]:
    """Return the config of a --config flag with overrides as plain data. Raises ConfigError if it cannot be read."""
    if flag.present and flag.value is None:
        raise ConfigError("--config: get_config() of that file returns None; let it return the config")
    config = required(flag)
    try:
        return configuration.plain({name: config[name] for name in config})
    except OSError as error:  # raised only when the config is used
        if fault := _fault_in_config(error):
            raise ConfigError(fault) from error
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"--config cannot be read: {reason}; name a file such as configs/study/quickstart.py"
        ) from None


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """Parse flags with absl. Raises ConfigError of one line for a wrong flag or a config file that fails."""
    try:
        return flags.FLAGS([arguments[0], *map(_with_underscores, arguments[1:])])
    except UserError:
        raise
    except SystemExit:
        if any(argument.startswith(("--help", "-h", "-?")) for argument in arguments[1:]):
            sys.exit(0)  # absl exits with 1
        raise
    except Exception as error:  # a config file is Python and can raise anything
        if fault := _fault_in_config(error):
            raise ConfigError(fault) from error
        if not isinstance(error, flags.Error | AttributeError | KeyError | TypeError | ValueError | OSError):
            raise
        check_overrides(arguments)
        # str(KeyError) is the repr of its message
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        kind = "" if isinstance(error, flags.Error | KeyError) else "--config: "
        raise ConfigError(f"{kind}{_one_line(str(text))}; --help lists the flags") from error


def _fault_in_config(error: BaseException) -> str | None:
    """Return the error in the file of --config with its line; None if the error has another origin."""
    for cause in causes(error):
        frames = traceback.walk_tb(cause.__traceback__)
        own = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__") == _CONFIG_MODULE]
        if own:
            frame, line = own[-1]
            return _one_line(f"--config: {frame.f_code.co_filename}:{line}: {type(cause).__name__}: {cause}")
        if isinstance(cause, SyntaxError) and cause.filename:  # the file was not executed
            return _one_line(f"--config: {cause.filename}:{cause.lineno}: {type(cause).__name__}: {cause.msg}")
        if isinstance(cause, TypeError) and str(cause).startswith("get_config()"):
            return f"--config: {cause}; write --config=FILE:ARGUMENT if it takes an argument, else --config=FILE"
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ConfigError for the first --config.group.field=... that names an unknown field."""
    named = [argument for argument in arguments if argument.startswith("--config=")]
    try:
        config = ConfigFileFlagParser("config").parse(named[-1].partition("=")[2]) if named else None
    except Exception:  # the caller reports a file that cannot be read
        return
    if not isinstance(config, ConfigDict):
        return
    for argument in arguments:
        if argument.startswith("--config."):
            _find(config, argument.partition("=")[0].removeprefix("--config."))


def _find(config: ConfigDict, name: str) -> None:
    """Follow a dotted name through a config. Raises ConfigError at the first part that is unknown or empty."""
    group: Any = config
    where = "config"
    try:
        parts = config_path.split(name)
    except ValueError:
        raise ConfigError(f"--config.{name} is not the name of a field; write --config.group.field=value") from None
    for part in parts:
        if not isinstance(group, ConfigDict):
            return  # an entry of a list, which the parser reports
        if part not in group:
            raise ConfigError(f"--{where}.{part}: {where} has no such field{configuration.suggestion(part, group)}")
        if group[part] is None and group.get_type(part) is type(None):
            raise ConfigError(f"--{where}.{part} is empty in this config; set it in the config file")
        group, where = group[part], f"{where}.{part}"


def _with_underscores(argument: str) -> str:
    """Return a flag in absl's notation: --target_language for --target-language, --nomerge for --no-merge."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    plain = name[2:].replace("-", "_")
    if plain.startswith("no_") and plain not in flags.FLAGS and plain[3:] in flags.FLAGS:
        plain = f"no{plain[3:]}"
    return f"--{plain}{equals}{value}"
