"""How the learners' weights reach the engines: whole tensors under published names, transports, the audit."""
