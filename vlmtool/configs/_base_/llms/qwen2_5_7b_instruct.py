llm = dict(path="Qwen/Qwen2.5-7B-Instruct", template="qwen_chat")
