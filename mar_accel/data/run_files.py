"""Names of the files in a run folder."""

CONFIG_FILE = "config.yaml"
# Is written last, so that a run with a record is a finished one.
RECORD_FILE = "run.json"
METRICS_FILE = "metrics.json"
# Tokens of the first images, for fidelity in latent space.
TOKENS_FILE = "tokens.safetensors"
GRID_FILE = "grid.png"
# Folder of the images, if each has a file.
IMAGES = "images"
