llm = dict(path="Qwen/Qwen2.5-1.5B-Instruct", template="qwen_chat")
