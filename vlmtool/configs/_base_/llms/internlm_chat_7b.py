llm = dict(path="internlm/internlm-chat-7b", template="internlm_chat")
