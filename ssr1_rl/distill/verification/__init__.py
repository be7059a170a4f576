"""How chains of thought are checked against the sound."""
