"""The policy: a transformers model that returns log-probs, its families and adapters. No DeepSpeed."""
