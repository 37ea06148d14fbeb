# Answers come without the <think> block of Qwen3's own template.
llm = dict(path="Qwen/Qwen3-1.7B", template="qwen_chat")
