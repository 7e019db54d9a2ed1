"""Training of the models in this package."""
