"""Makes a run visible: metrics, samples, a live display, and a watchdog that explains waiting."""
