"""The sight world: sounds in a row, the silent video of their sources, and questions of several steps."""
