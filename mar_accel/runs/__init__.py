"""What a run is: its entry, its identity, its folder, its record, its loggers; sweeps of runs."""
