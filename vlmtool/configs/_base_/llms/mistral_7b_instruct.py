# The hub asks to accept its conditions first; then `hf auth login`.
llm = dict(path="mistralai/Mistral-7B-Instruct-v0.2", template="mistral")
