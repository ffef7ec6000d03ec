"""Scores of models: loss, metrics of generated text, few-shot and zero-shot evaluation, comparisons."""
