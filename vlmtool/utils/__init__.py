"""What every layer may use: errors, files, distributed, terminal. Imports nothing of vlmtool."""
