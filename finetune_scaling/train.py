"""Pretrain or finetune one model: python -m finetune_scaling.train --config=configs/... --workdir=DIR

Every field of the config can be overridden on the command line: --config.schedule.learning_rate=1e-2
"""

from finetune_scaling import command
from finetune_scaling.command_flags import config_flag, path_flag, read_config, required
from finetune_scaling.experiments.run import run
from finetune_scaling.strict_json import format_json
from finetune_scaling.training.compilations import compiled_programs

_CONFIG = config_flag("config", "Path of a config file, followed by :ARGUMENT if it takes one.")
_WORKDIR = path_flag("workdir", "Run directory; an unfinished run in it is resumed.")


def main() -> None:
    """Execute the run; print the main results and the number of compiled programs as one JSON line."""
    record = run(read_config(_CONFIG), required(_WORKDIR))
    shown = ("loss", "loss_per_byte", "dev_loss", "steps", "best_step", "stopped_by", "flops", "seconds", "metrics")
    figures = {name: record[name] for name in shown if name in record}
    print(format_json({**figures, "programs_compiled": compiled_programs()}))


if __name__ == "__main__":
    command.run(main, accelerator=True)
