"""The methods that configs can name. A further one is a file like its neighbours and an entry here."""

from finetune_scaling.tuning import full, lora, prompt
from finetune_scaling.tuning.method import Method

METHODS: dict[str, Method] = {method.name: method for method in (full.METHOD, prompt.METHOD, lora.METHOD)}
