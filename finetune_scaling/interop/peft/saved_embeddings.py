"""Embeddings and heads that PEFT saves next to an adapter (`save_embedding_layers`), although it did not train them."""

import dataclasses

import numpy as np

from finetune_scaling.errors import CheckpointError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import PeftAdapter
from finetune_scaling.interop.peft.modules import PREFIX
from finetune_scaling.runs.streamed_checkpoint import StreamedCheckpoint


def without_saved_embeddings(adapter: PeftAdapter, match: FamilyMatch, base: StreamedCheckpoint) -> PeftAdapter:
    """Return an adapter without the saved tensors that are those of its base.

    Raises CheckpointError where they differ from the base's, as after training or resizing them.
    """
    if adapter.fields.get("modules_to_save"):
        return adapter  # the reader of its method refuses this field
    tensors = dict(adapter.tensors)
    for tensor in match.family.tensors(dataclasses.replace(match.config, tied_head=False)):
        saved = tensors.pop(f"{PREFIX}{tensor.name}", None) if tensor.path in ("embedding", "head") else None
        if saved is None:
            continue
        tied = tensor.path == "head" and match.config.tied_head
        leaf = base["embedding" if tied else tensor.path].astype(np.float32)
        if not np.array_equal(saved, leaf.T if tensor.transposed and not tied else leaf):
            raise CheckpointError(
                f"{adapter.weights}: tensor {PREFIX}{tensor.name} differs from the base's, so it was trained or "
                "resized. Fix: give --base=RUN the base of this adapter; if it is, merge it with peft "
                "(merge_and_unload, save_pretrained) and import the model with --from-hf."
            )
    return dataclasses.replace(adapter, tensors=tensors)
