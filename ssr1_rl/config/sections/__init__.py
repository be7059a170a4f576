"""Every setting of a run, one file per section: type, default, bounds, and an explanation under it."""
