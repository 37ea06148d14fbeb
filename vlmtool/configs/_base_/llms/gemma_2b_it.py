# The hub asks to accept its conditions first; then `hf auth login`.
llm = dict(path="google/gemma-2b-it", template="gemma")
