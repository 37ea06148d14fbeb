"""Readers of source formats, one file each; all give `Conversation`s."""
