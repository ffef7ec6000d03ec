"""Train LoRA for a few steps with a batch of 16 on one device and on 32; print the losses as JSON.

Run in a separate process, since the number of devices is fixed when JAX starts.
"""

import json
import sys

import jax
from mesh_losses import BATCH, losses

from finetune_scaling.sharding.mesh import ShardingConfig, check_batch, make_mesh

TWO_PER_ROW = ShardingConfig(tensor=2)


def main() -> None:
    check_batch(BATCH, 1, TWO_PER_ROW, make_mesh(TWO_PER_ROW))
    one = losses("lora", ShardingConfig(), jax.devices()[:1], accumulation=1, steps=3)
    many = losses("lora", TWO_PER_ROW, jax.devices(), accumulation=1, steps=3)
    json.dump({"devices": jax.device_count(), "batch": BATCH, "one": one, "many": many}, sys.stdout)


if __name__ == "__main__":
    main()
