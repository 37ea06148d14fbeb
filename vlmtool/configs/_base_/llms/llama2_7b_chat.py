# The hub asks to accept its conditions first; then `hf auth login`.
llm = dict(path="meta-llama/Llama-2-7b-chat-hf", template="llama2_chat")
