"""From a config to images: built objects, LightningModule, Trainer and the written files."""
