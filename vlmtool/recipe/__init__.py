"""From a name to a checked recipe: catalog (which), load (read), override (`--set`), schema (what may stand in it)."""
