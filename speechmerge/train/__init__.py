"""Fine-tuning on transformers' Trainer: one adapter (or one full model) per task."""
