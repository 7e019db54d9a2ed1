"""From a config to images: what is built, the LightningModule, the Trainer, the files written on the way."""
