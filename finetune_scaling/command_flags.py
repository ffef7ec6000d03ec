"""Flags of paths and integers, and flags that name config files whose fields the command line can override."""

import glob
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from finetune_scaling import configuration, typed_values
from finetune_scaling.data.tokenizers.training import TokenizerPreparation
from finetune_scaling.errors import ConfigError, UserError, causes
from finetune_scaling.messages import one_line
from finetune_scaling.overrides import Override, apply_overrides
from finetune_scaling.paths import user_path
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.studies.grid import StudyConfig

flags.disclaim_key_flags()  # the flags defined here belong to the command that calls

_CONFIG_MODULE = "{}_config"  # ml_collections' name of the module of a config file, by the name of its flag


class _PathParser(flags.ArgumentParser):
    """Parses a path."""

    def parse(self, argument: str) -> str:  # type: ignore[override]
        """Return the path with ~ expanded."""
        return user_path(argument)


class _IntegerParser(flags.IntegerParser):
    """Parses an integer as fields of configs are written, such as 10 or 1e6."""

    def convert(self, argument: int | str) -> int:
        """Return the integer. Raises ValueError that says how integers are written."""
        try:
            return typed_values.parse(argument, int) if isinstance(argument, str) else super().convert(argument)
        except ConfigError as error:
            raise ValueError(str(error)) from None


class _PathListParser(flags.ArgumentParser):
    """Parses paths that are separated by commas."""

    def parse(self, argument: str | Sequence[str]) -> list[str]:  # type: ignore[override]
        """Return the paths with ~ expanded."""
        paths = argument.split(",") if isinstance(argument, str) else argument
        return [user_path(path.strip()) for path in paths if path.strip()]


def path_flag(name: str, help: str, default: str | None = "", required: bool = False) -> flags.FlagHolder[Any]:
    """Define a flag that names a file or directory, or its URL."""
    return flags.DEFINE(_PathParser(), name, default, help, flags.FLAGS, required=required)


def integer_flag(name: str, default: int | None, help: str, lower_bound: int | None = None) -> flags.FlagHolder[Any]:
    """Define a flag of an integer, written as in configs."""
    return flags.DEFINE(_IntegerParser(lower_bound), name, default, help, flags.FLAGS)


class _PathsFlag(flags.MultiFlag):
    """A flag of several paths, separated by commas or given in several flags."""

    def _parse(self, arguments: Any) -> list[str]:
        return [path for paths in super()._parse(arguments) for path in paths]


def paths_flag(name: str, help: str) -> flags.FlagHolder[Any]:
    """Define a flag that names files or directories, separated by commas; the default is None."""
    flag = _PathsFlag(_PathListParser(), flags.ArgumentSerializer(), name, None, help)
    return flags.DEFINE_flag(flag, flags.FLAGS)


def expand_globs(flag: flags.FlagHolder[Any], paths: Iterable[str]) -> list[str]:
    """Return the distinct paths in order, with glob patterns expanded. Raises ConfigError if one matches nothing.

    The path of an existing file or directory is no pattern.
    """
    found: list[str] = []
    for path in paths:
        is_pattern = glob.has_magic(path) and not os.path.exists(path)
        matches = sorted(glob.glob(path)) if is_pattern else [path]
        if not matches:
            raise ConfigError(f"--{flag.name}={path} matches no directory; check the pattern")
        found += matches
    return list(dict.fromkeys(found))


class ConfigFlag(flags.Flag):
    """A flag that names a config file. The file is read when the config is, once.

    declared: returns the type of the dataclass that reads a config. default_config: the config without the flag.
    """

    def __init__(
        self, name: str, help: str, declared: Callable[[Any], Any], default_config: Callable[[], Any] | None = None
    ):
        self.declared, self.default_config = declared, default_config
        self.overrides: Sequence[Override] = ()
        self.config: Any = None
        super().__init__(_PathParser(), flags.ArgumentSerializer(), name, None, help)

    def set_overrides(self, overrides: Sequence[Override]) -> None:
        """Set the overrides of a new command line. Raises ConfigError if there is no config that they change."""
        if overrides and not self.value and self.default_config is None:
            raise ConfigError(f"{overrides[0].name} changes a config. Fix: give --{self.name}=FILE, too")
        self.overrides, self.config = overrides, None

    def read(self) -> Any:
        """Return the config with its overrides. Raises ConfigError if it cannot be read."""
        if self.config is None:
            config = self.default_config() if not self.value and self.default_config else _load(self)
            apply_overrides(config, self.overrides, self.declared(config))
            self.config = config
        return self.config


def config_type(config: Any) -> Any:
    """Return the dataclass that reads a config: of a study, of a tokenizer's training, or of a run."""
    if not isinstance(config, Mapping | ConfigDict):
        return Any
    if "families" in config:
        return StudyConfig
    trains_tokenizer = isinstance(config.get("tokenizer"), Mapping | ConfigDict)
    return TokenizerPreparation if trains_tokenizer else RunConfig


def config_flag(
    name: str,
    help: str,
    declared: Callable[[Any], Any] = config_type,
    default_config: Callable[[], Any] | None = None,
) -> flags.FlagHolder[Any]:
    """Define a flag that names a config file; see ConfigFlag."""
    return flags.DEFINE_flag(ConfigFlag(name, help, declared, default_config), flags.FLAGS)


def read_config(flag: flags.FlagHolder[Any] | flags.Flag) -> dict[str, Any]:
    """Return the config of a flag with overrides as plain data. Raises ConfigError if it cannot be read."""
    config = flags.FLAGS[flag.name].read()  # type: ignore[attr-defined]
    return configuration.plain({name: config[name] for name in config})


def required(flag: flags.FlagHolder[Any] | flags.Flag) -> Any:
    """Return the value of a flag. Raises ConfigError if it was not given."""
    if flag.value in (None, ""):
        raise ConfigError(f"--{flag.name.replace('_', '-')} is missing; see --help")
    return flag.value


def _load(flag: ConfigFlag) -> Any:
    """Return what get_config() of a flag's file returns. Raises ConfigError with the line of an error in the file."""
    try:
        config = ConfigFileFlagParser(flag.name).parse(required(flag))
        list(config or ())  # ml_collections reports a missing file when the config is used
    except UserError:
        raise
    except Exception as error:  # a config file is Python and can raise anything
        if fault := _fault_in_config(error, flag.name):
            raise ConfigError(fault) from error
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"--{flag.name} cannot be read: {reason}; name a file such as configs/study/quickstart.py"
        ) from None
    if config is None:
        raise ConfigError(f"--{flag.name}: get_config() of that file returns None; let it return the config")
    return config


def _fault_in_config(error: BaseException, name: str) -> str | None:
    """Return the error in the file of a config's flag with its line; None if the error has another origin."""
    for cause in causes(error):
        frames = traceback.walk_tb(cause.__traceback__)
        module = _CONFIG_MODULE.format(name)
        own = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__") == module]
        if own:
            frame, line = own[-1]
            return one_line(f"--{name}: {frame.f_code.co_filename}:{line}: {type(cause).__name__}: {cause}")
        if isinstance(cause, SyntaxError) and cause.filename:  # the file was not executed
            return one_line(f"--{name}: {cause.filename}:{cause.lineno}: {type(cause).__name__}: {cause.msg}")
        if isinstance(cause, TypeError) and str(cause).startswith("get_config()"):
            return f"--{name}: {cause}; write --{name}=FILE:ARGUMENT if it takes an argument, else --{name}=FILE"
    return None
