"""Evaluation of a config: what its images are like, how close to the unaccelerated ones, how fast."""
