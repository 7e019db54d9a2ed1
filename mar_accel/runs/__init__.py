"""Runs and sweeps: entry point, identity, run folder, record and loggers."""
