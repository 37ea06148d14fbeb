# The files made for transformers' own class, not those of glm-4-9b-chat.
llm = dict(path="THUDM/glm-4-9b-chat-hf", template="glm4_chat")
