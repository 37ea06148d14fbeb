llm = dict(path="microsoft/Phi-3-mini-4k-instruct", template="phi3_chat")
