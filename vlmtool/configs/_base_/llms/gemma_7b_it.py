# The hub asks to accept its conditions first; then `hf auth login`.
llm = dict(path="google/gemma-7b-it", template="gemma")
