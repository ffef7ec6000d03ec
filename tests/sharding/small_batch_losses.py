"""Train LoRA for a few steps with a batch of 16 on one device and on 32; print {mesh: losses} as JSON.

Run in a separate process, since the number of devices is fixed when JAX starts.
"""

import json
import sys

import jax
from mesh_losses import ALONG_LENGTH, BATCH, losses

from finetune_scaling.sharding.mesh import ShardingConfig, check_batch, make_mesh

LAYOUTS = {
    "heads": ShardingConfig(fsdp=1, tensor=2),
    "length": ShardingConfig(fsdp=2, tensor=4, axes=ALONG_LENGTH),
}


def main() -> None:
    found = {"one device": losses("lora", ShardingConfig(), jax.devices()[:1], accumulation=1, steps=3)}
    for name, sharding in LAYOUTS.items():
        check_batch(BATCH, 1, sharding, make_mesh(sharding))
        found[name] = losses("lora", sharding, jax.devices(), accumulation=1, steps=3)
    json.dump({"devices": jax.device_count(), "batch": BATCH, "losses": found}, sys.stdout)


if __name__ == "__main__":
    main()
