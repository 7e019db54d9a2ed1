"""From many runs to a decision: what to run, and what the runs say together."""
