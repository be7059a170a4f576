"""How the student learns from chains of thought or labels."""
