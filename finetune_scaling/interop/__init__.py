"""Import and export of models and adapters in the formats of Hugging Face and PEFT."""
