llm = dict(path="Qwen/Qwen2.5-0.5B-Instruct", template="qwen_chat")
