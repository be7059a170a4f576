"""The settings of a run: their schema, how a launch file is read, presets. Rules between settings are in checks/."""
