"""Weights of models: where they come from, whether they fit, how they are kept."""
