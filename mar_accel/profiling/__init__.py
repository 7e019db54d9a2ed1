"""Seconds, memory and FLOPs of sampling."""
