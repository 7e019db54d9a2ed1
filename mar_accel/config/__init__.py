"""Configs: composition, typed settings, checks and error messages."""
