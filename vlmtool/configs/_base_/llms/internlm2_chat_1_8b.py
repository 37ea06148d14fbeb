llm = dict(path="internlm/internlm2-chat-1_8b", template="internlm2_chat")
