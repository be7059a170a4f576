"""How the teacher is asked for chains of thought, and which of them are kept."""
