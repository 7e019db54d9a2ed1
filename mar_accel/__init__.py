"""Training-free acceleration of masked autoregressive (MAR) image models."""

__version__ = "0.1.0"
