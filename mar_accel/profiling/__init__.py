"""Time, memory and FLOPs of sampling."""
