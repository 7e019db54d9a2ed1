"""Hydra finds sweepers and launchers only below the namespace package ``hydra_plugins``.

The modules here connect Hydra with ``mar_accel.sweeps``. They are imported whenever Hydra starts, so they
import nothing heavy.
"""
