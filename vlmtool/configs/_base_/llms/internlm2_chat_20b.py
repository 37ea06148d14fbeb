llm = dict(path="internlm/internlm2-chat-20b", template="internlm2_chat")
