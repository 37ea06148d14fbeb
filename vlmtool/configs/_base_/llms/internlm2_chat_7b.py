llm = dict(path="internlm/internlm2-chat-7b", template="internlm2_chat")
