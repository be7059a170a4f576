"""`ssr1-rl doctor`: what can be known before a GPU-hour is spent. Its checks are pure functions over facts."""
