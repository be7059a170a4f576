"""What is checked before a run starts: rules that join settings, files, the model's shapes. Nothing is started here."""
