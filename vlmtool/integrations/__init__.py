"""Bridges to other tools; each file needs its tool installed, and nothing else here needs it."""
