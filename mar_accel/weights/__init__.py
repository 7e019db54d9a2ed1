"""Weights of models: finding, reading, checking and saving them."""
