"""The tuning methods that configs can name. A new method is a file in this package and an entry here."""

from finetune_scaling.tuning import bitfit, bottleneck, dora, full, ia3, lora, prefix, prompt
from finetune_scaling.tuning.method import MethodSpec

METHODS: dict[str, MethodSpec] = {
    module.SPEC.name: module.SPEC for module in (full, prompt, lora, dora, ia3, prefix, bottleneck, bitfit)
}
