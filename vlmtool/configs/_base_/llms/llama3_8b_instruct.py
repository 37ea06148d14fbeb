# The hub asks to accept its conditions first; then `hf auth login`.
llm = dict(path="meta-llama/Meta-Llama-3-8B-Instruct", template="llama3_chat")
