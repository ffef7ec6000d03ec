"""A run is found by a relative path as well as by an absolute one."""

import jax.numpy as jnp
import numpy as np

from finetune_scaling.runs.checkpoints import Checkpoints, checkpoint_steps, read_trainable
from finetune_scaling.runs.run_directory import CHECKPOINTS
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state


def test_checkpoints_at_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = init_state({"kernel": jnp.arange(6.0).reshape(2, 3)}, OptimizerConfig())
    checkpoints = Checkpoints("run")
    checkpoints.save(3, state, {"best_step": 3})
    checkpoints.close()

    (step,) = checkpoint_steps("run")
    params, metadata = read_trainable(checkpoints.directory / str(step))
    np.testing.assert_array_equal(params["kernel"], state.trainable["kernel"])
    assert metadata["step"] == 3
    assert checkpoints.directory.as_posix() == f"run/{CHECKPOINTS}"
