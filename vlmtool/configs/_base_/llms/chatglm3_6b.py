llm = dict(path="THUDM/chatglm3-6b", template="chatglm3")
