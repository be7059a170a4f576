"""What may be set: the schema of a launch file, how it is read, presets. Rules that join settings are in checks/."""
