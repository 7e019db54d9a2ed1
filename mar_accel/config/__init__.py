"""Configs: composed, checked, and what is said about a wrong one."""
