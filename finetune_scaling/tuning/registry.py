"""The methods that configs can name. A further one is a file like its neighbours and an entry here."""

from finetune_scaling.tuning import full, lora, prompt
from finetune_scaling.tuning.method import MethodSpec

METHODS: dict[str, MethodSpec] = {method.name: method for method in (full.SPEC, prompt.SPEC, lora.SPEC)}
