"""Evaluation of a config: image quality, fidelity to the unaccelerated images, and speed."""
