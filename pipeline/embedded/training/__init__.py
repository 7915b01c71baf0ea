"""How the embedded model was trained. The service does not import it."""
