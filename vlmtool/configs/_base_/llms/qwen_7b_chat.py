llm = dict(path="Qwen/Qwen-7B-Chat", template="qwen_chat")
