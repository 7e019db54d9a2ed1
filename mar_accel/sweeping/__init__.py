"""Sweeps (``-m``): runs named by what they compute, made once, and a table at the end."""
