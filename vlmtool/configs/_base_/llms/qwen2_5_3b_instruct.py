llm = dict(path="Qwen/Qwen2.5-3B-Instruct", template="qwen_chat")
