"""Checks made before a run starts: rules between settings, files, the model's shapes. Nothing is started here."""
