"""Finetune Scaling: how finetuning quality scales with model, pretraining data, tuned parameters and examples."""

__version__ = "0.1.0"
