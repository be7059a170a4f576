"""What may be set: the schema of a launch file, how it is read, and presets. Rules that join settings are in checks/."""
